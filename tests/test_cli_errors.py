"""What a person reads after a mistake: one line with the thing, the value and the remedy; exit code 2; nothing lost."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import hjepa, tree
from conftest import tiny_options
from PIL import Image

from hjepa.cli import main
from hjepa.data.sources import named


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory of our own, so that messages hold short paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photos(here):
    folder = here / "photos"
    for name in ("a/1.png", "a/2.png", "b/3.png", "b/4.png"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(file)
    return folder


@pytest.fixture
def complaint(capsys, here):
    """Run a command that must be refused; return its line. Nothing on disk may change."""

    def run(*words: object) -> str:
        before = tree(here)
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        assert left.value.code == 2, captured.out + captured.err
        assert captured.err.count("\n") == 1, captured.err
        assert "Traceback" not in captured.err
        assert tree(here) == before
        return captured.err.removeprefix("hjepa: ").rstrip("\n")

    return run


def test_a_pattern_that_the_shell_has_spelled_out_ends_in_one_short_line(complaint):
    """It was one line of 69,025 characters."""
    line = complaint("pretrain", *(f"photos/{number}.jpg" for number in range(5000)), "--out", "run")
    assert line == (
        "one DATA is expected, and photos/1.jpg and 4,998 more came after it: name the folder that holds the images, "
        "or a .txt file with a path per line"
    )
    assert complaint("doctor", "more") == "unexpected argument more: hjepa doctor --help lists what is expected"


CASES = {
    "levels from deep to shallow": (
        "pretrain scenes --out run --model.levels 6,3,0",
        "model.levels go from shallow to deep, the last is what verdicts judge: write them as 0,3,6",
    ),
    "crops in training, black bars in evaluation": (
        "pretrain photos --out run --data.fit pad --augment.crop_scale 0.5,1.0",
        "data.fit = pad pads the images of evaluation, augment.crop_scale fills those of training with crops: "
        "use data.fit crop, or augment.crop_scale none",
    ),
    "images compared over a split batch": (
        "pretrain scenes --out run --loss.variance_covariance 1 --optim.accumulate 2",
        "loss.variance_covariance compares all images of a step, and optim.accumulate = 2 never has them together: "
        "use optim.accumulate 1 and a smaller optim.batch_size, or loss.variance_covariance 0",
    ),
    "a budget without a unit": (
        "pretrain scenes --out run --budget 20",
        "--budget 20: must be a time, such as 90s, 20min, 8h or 2d",
    ),
    "a budget that is no time": (
        "pretrain scenes --out run --budget soon",
        "--budget soon: must be a number of steps, of epochs, or a time, such as 2340 steps, 300 epochs or 20min",
    ),
    "two lengths": (
        "pretrain scenes --out run --budget 20min --train.length 5",
        "--budget and --train.length both say how long to train: leave one of them out",
    ),
    "a length of earlier versions": (
        "pretrain scenes --out run --train.steps 5",
        "--train.steps is now --train.length, such as --train.length '300 steps'",
    ),
    "a length that a run writes": (
        "pretrain scenes --out run --horizon.steps 5",
        "--horizon.steps is written by a run and cannot be set: use --train.length",
    ),
    "a loss where it was": (
        "pretrain scenes --out run --optim.loss l2",
        "--optim.loss is now --loss.kind",
    ),
    "a setting of another sampler": (
        "masks --grid 8x8 --masking.sampler random --masking.target_aspect 1,2",
        "masking.target_aspect is a setting of masking.sampler multiblock or ijepa-reference only: leave it out, or "
        "choose that sampler",
    ),
    "a sampler that does not exist": (
        "masks --grid 8x8 --masking.sampler blocks",
        "masking.sampler = 'blocks': must be one of multiblock, random, ijepa-reference",
    ),
    "missing folder": (
        "pretrain nowhere --out run",
        "nowhere is neither a folder nor a known data set: check the path, or use cifar10, fashion-mnist or scenes",
    ),
    "plan of a run that exists": (
        "pretrain scenes --out run --plan --resume",
        "--plan says what a new run would do: leave out --resume, --extend-to and --init-from",
    ),
    "masks with a setting of another section": (
        "masks --grid 8x8 --data.image_size 28",
        "--data.*: hjepa masks takes settings of the section masking only",
    ),
    "no masks": ("masks --grid 8x8 --steps 0", "--steps 0: must be at least 1"),
    "a reference sampler that would never end": (
        "masks --grid 8x8 --masking.sampler ijepa-reference --masking.min_keep 10",
        "masking.min_keep = 10 can never be satisfied: masking.target_scale gives blocks of 9 patches on a 8x8 grid "
        "and each block needs more than min_keep; the largest possible is 8",
    ),
    "random masks that do not fit": (
        "masks --grid 8x8 --masking.sampler random --masking.context_scale 0.85,1 --masking.target_scale 0.15,0.2",
        "masking.context_scale = (0.85, 1.0) and masking.target_scale = (0.15, 0.2): 64 random patches to see and 12 "
        "to predict are more than there are on a 8x8 grid; use scales that add up to at most 1, such as 0.3,0.3 and "
        "0.7,0.7",
    ),
    "gradients that nothing predicts": (
        "pretrain scenes --out run --recipe hjepa-tiny --model.levels 4 --loss.pixel_targets gradients",
        "loss.pixel_targets = gradients needs a level of depth 0: add 0 to model.levels, or use "
        "--loss.pixel_targets values",
    ),
    "folder without images": (
        "pretrain empty --out run",
        "empty holds no images: looked in all its subfolders for .bmp, .gif, .jpeg, .jpg, .pgm, .png, .ppm, .tif, "
        ".tiff, .webp",
    ),
    "a file as data": (
        "pretrain notes.md --out run",
        "notes.md is a file: pass a folder of images, a .txt or .csv list of paths, or an .npz file of arrays",
    ),
    "empty list": ("pretrain empty.txt --out run", "empty.txt names no images: write one path a line"),
    "list with a missing file": (
        "pretrain list.txt --out run",
        "list.txt names gone.png, which does not exist: correct the list",
    ),
    "list without its column": (
        "pretrain table.csv --out run",
        "table.csv has no column 'path': its first line must name the columns path and, if any, label",
    ),
    "unknown split": (
        "pretrain fashion-mnist:val --out run",
        "fashion-mnist has no split 'val': use one of fashion-mnist, fashion-mnist:train, fashion-mnist:test",
    ),
    "unknown recipe": (
        "pretrain scenes --out run --recipe hjepa-smal",
        "unknown recipe 'hjepa-smal', did you mean hjepa-small?: the recipes are demo, hjepa-base, hjepa-large, "
        "hjepa-small, hjepa-tiny, ijepa-code, ijepa-code-fashion, ijepa-paper",
    ),
    "misspelt setting": (
        "pretrain scenes --out run --optim.lrr 1",
        "unknown setting --optim.lrr, did you mean --optim.lr?",
    ),
    "setting in the wrong section": (
        "pretrain scenes --out run --train.lr 1",
        "unknown setting --train.lr, did you mean --optim.lr?",
    ),
    "misspelt option": (
        "pretrain scenes --out run --recpie demo",
        "unknown setting --recpie, did you mean --recipe?",
    ),
    "misspelt setting in a file": (
        "pretrain scenes --out run --config typo.yaml",
        "unknown setting model.widht in file typo.yaml, did you mean model.width?",
    ),
    "file that is not YAML": (
        "pretrain scenes --out run --config broken.yaml",
        "--config broken.yaml, line 2: not valid YAML",
    ),
    "file that is missing": ("pretrain scenes --out run --config gone.yaml", "--config gone.yaml: no such file"),
    "wrong value in a file": (
        "pretrain scenes --out run --config wrong.yaml",
        "optim.lr = 'fast' (file wrong.yaml): input should be a valid number, unable to parse string as a number",
    ),
    "wrong value": (
        "pretrain scenes --out run --optim.batch_size many",
        "optim.batch_size = 'many': input should be a valid integer, unable to parse string as an integer",
    ),
    "value out of range": (
        "pretrain scenes --out run --ema.momentum 1.5",
        "ema.momentum = 1.5: input should be less than or equal to 1",
    ),
    "unknown choice": (
        "pretrain scenes --out run --train.precision bf8",
        "train.precision = 'bf8': input should be 'auto', 'bf16', 'fp16', 'float32' or 'float64'",
    ),
    "setting without a value": (
        "pretrain scenes --out run --optim.lr",
        "--optim.lr needs a value, such as --optim.lr 0.001",
    ),
    "budget without a value": (
        "pretrain scenes --out run --train.length",
        "--train.length needs a value, such as --train.length '100 epochs'",
    ),
    "patch size that does not divide": (
        "pretrain scenes --out run --data.image_size 30 --model.patch_size 4",
        "model.patch_size = 4 does not divide data.image_size = 30: use an image size of 28 or 32",
    ),
    "grid too small": (
        "pretrain scenes --out run --data.image_size 16 --model.patch_size 16",
        "a 1x1 grid is too small for masks; the smallest possible is 2x2",
    ),
    "grid that is none": ("masks --grid large", "--grid large: expected rows x columns, such as 14x14"),
    "width that heads do not divide": (
        "pretrain scenes --out run --model.heads 5",
        "model.width = 192 must be divisible by 4 and by its 5 heads",
    ),
    "batch that cannot be split": (
        "pretrain scenes --out run --optim.batch_size 10 --optim.accumulate 4",
        "optim.batch_size = 10 cannot be split into 1 processes x 4 micro-batches: use --optim.batch_size 8",
    ),
    "micro-batch of one image": (
        "pretrain scenes --out run --optim.batch_size 4 --optim.accumulate 4",
        "optim.batch_size = 4: a micro-batch needs at least 2 images, because each is compared with another one; "
        "use a larger --optim.batch_size or a smaller --optim.accumulate",
    ),
    "no out folder": (
        "pretrain scenes",
        "--out is missing: name a folder for the run, such as --out runs/first",
    ),
    "out folder that is not empty": (
        "pretrain scenes --out full",
        "--out full: not empty; continue that run with --resume, replace it with --overwrite, or name another folder",
    ),
    "overwriting what is no run": (
        "pretrain scenes --out full --overwrite",
        "--out full: not empty and not a run, --overwrite only replaces runs",
    ),
    "out that is a file": ("pretrain scenes --out notes.md", "--out notes.md: is a file, name a folder"),
    "resuming nothing": ("pretrain scenes --out run --resume", "run is not a run: it has no run.json"),
    "resume and overwrite": (
        "pretrain scenes --out run --resume --overwrite",
        "--resume and --overwrite contradict each other: continue the run, or replace it",
    ),
    "extending without resuming": (
        "pretrain scenes --out run --extend-to 9",
        "--extend-to lengthens a run that exists: add --resume, or set --train.length for a new run",
    ),
    "fp16 on a CPU": (
        "pretrain scenes --out run --train.device cpu --train.precision fp16",
        "train.precision = fp16: made for GPUs, use bf16 or float32 on a CPU",
    ),
    "starting weights that are missing": (
        "pretrain scenes --out run --init-from gone.safetensors",
        "--init-from gone.safetensors: does not exist; name a run folder or a weights file",
    ),
    "starting weights that are damaged": (
        "pretrain scenes --out run --init-from bad.safetensors",
        "--init-from bad.safetensors: damaged or not a safetensors file",
    ),
    "starting weights that are something else": (
        "pretrain scenes --out run --init-from notes.md",
        "--init-from notes.md: neither safetensors nor a checkpoint that loads without running code (UnpicklingError)",
    ),
    "evaluating what is no run": (
        "evaluate empty --train scenes --test scenes:test",
        "empty holds no encoder (encoder.safetensors, encoder.json): name a run that has trained",
    ),
    "reporting what is no run": ("report empty", "empty is not a run folder: it has no run.json"),
    "unknown command": (
        "pretrian scenes",
        'Unknown command "pretrian". Did you mean "pretrain"? Available commands: pretrain, evaluate, masks, doctor, '
        "audit, report. (hjepa --help)",
    ),
    "settings where there are none": (
        "doctor --optim.lr 1",
        "unknown option --optim.lr: hjepa doctor --help lists them",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_message(name, complaint, here):
    (here / "empty").mkdir()
    (here / "full").mkdir()
    (here / "full" / "thesis.tex").write_text("everything")
    (here / "notes.md").write_text("# notes")
    (here / "empty.txt").write_text("# nothing\n")
    (here / "list.txt").write_text("gone.png\n")
    (here / "table.csv").write_text("file,label\na.png,1\n")
    (here / "typo.yaml").write_text("model:\n  widht: 64\n")
    (here / "wrong.yaml").write_text("optim: {lr: fast}\n")
    (here / "broken.yaml").write_text("model: {width\n: [")
    (here / "bad.safetensors").write_bytes(b"not weights")
    words, expected = CASES[name]
    assert complaint(*words.split()) == expected


def test_corrupt_image(complaint, photos, here, capsys):
    (photos / "a" / "0.png").write_bytes((photos / "a" / "1.png").read_bytes()[:200])
    words = ["pretrain", "photos", *tiny_options(optim__batch_size=4, train__length=2)]
    line = complaint(*words, "--out", "run", "--data.mean", "none")  # measuring the mean meets it
    assert line.startswith("photos/a/0.png cannot be read as an image (")
    assert line.endswith("): replace it or take it out, or leave such files out with --data.corrupt skip")
    main_ok(*words, "--out", "run", "--data.corrupt", "skip")
    assert (here / "run" / "encoder.safetensors").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_skipped_images_are_named(photos, here, capsys, workers):
    (photos / "a" / "2.png").write_bytes(b"damaged")
    main_ok(
        "pretrain", "photos", "--out", "run",
        *tiny_options(optim__batch_size=4, train__length=2, data__corrupt="skip", data__workers=workers),
    )  # fmt: skip
    assert "1 of 4 images could not be read and were replaced by the next ones (the first: photos/a/2.png)" in (
        capsys.readouterr().out
    )
    assert json.loads((here / "run" / "run.json").read_text())["unreadable_images"] == ["photos/a/2.png"]


def test_corrupt_image_met_while_training_saves_what_was_learned(photos, here, capsys):
    (photos / "a" / "0.png").write_bytes((photos / "a" / "1.png").read_bytes()[:200])
    with pytest.raises(SystemExit) as left:
        main(["pretrain", "photos", "--out", "run", *tiny_options(optim__batch_size=2, train__length=9)])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("hjepa: photos/a/0.png cannot be read as an image (") and error.count("\n") == 1
    assert '"status": "failed"' in (here / "run" / "run.json").read_text()


def main_ok(*words: str) -> None:
    with pytest.raises(SystemExit) as left:
        main([*words])
    assert left.value.code == 0


def test_checkpoint_of_another_shape(complaint, photos, capsys):
    main_ok("pretrain", "photos", "--out", "small", *tiny_options(optim__batch_size=4, train__length=1))
    capsys.readouterr()
    wide = tiny_options(model__width=64, optim__batch_size=4)
    assert complaint("pretrain", "photos", "--out", "run", "--init-from", "small/encoder.safetensors", *wide) == (
        "encoder: pos_embed is (1, 16, 32), this model needs (1, 16, 64) (0 of 29 tensors matched); "
        "set model.* to the checkpoint's sizes"
    )


def test_not_enough_memory(complaint):
    big = {"optim.batch_size": 4000000, "model.width": 1024, "model.heads": 16, "train.attention": "plain"}
    exact = {"train.precision": "float32", "data.mean": "0,0,0", "data.std": "1,1,1"}
    words = [word for name, value in (big | exact).items() for word in (f"--{name}", str(value))]
    line = complaint("pretrain", "scenes", "--out", "run", *words)
    assert line.startswith("optim.batch_size = 4000000: a step needs about ")
    assert line.endswith(", or a smaller --optim.batch_size")


def test_impossible_masks_name_the_nearest_possible(complaint):
    line = complaint(*["masks", "--grid", "14x14", "--masking.target_scale", "0.95,1.0"])
    assert line.startswith("masking.target_scale = (0.95, 1.0)") and "the nearest possible is" in line


def test_cuda_that_is_not_there(complaint):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert complaint("pretrain", "scenes", "--out", "run", "--train.device", "cuda").startswith(
        "train.device = cuda: not available here, this machine has cpu"
    )


def test_fashion_mnist_absent_and_offline_says_all_three_ways(complaint, monkeypatch):
    from torchvision import datasets

    def offline(*_args, **_kwargs):
        raise OSError("no network")

    monkeypatch.setattr(named, "FASHION_FOLDERS", (Path("fashion-mnist"),))
    monkeypatch.setattr(datasets, "FashionMNIST", offline)  # stands for the network
    assert complaint("pretrain", "fashion-mnist", "--out", "run") == (
        "fashion-mnist is not here and could not be downloaded: install Debian's dataset-fashion-mnist, or put its "
        "four files into ./fashion-mnist, or go online once so that torchvision can fetch it"
    )


def test_evaluation_mistakes(complaint, photos, capsys):
    main_ok("pretrain", "photos", "--out", "run", *tiny_options(optim__batch_size=4, train__length=1))
    flat = photos.parent / "flat"
    flat.mkdir()
    for number, file in enumerate(sorted(photos.rglob("*.png"))):
        shutil.copy(file, flat / f"{number}.png")
    capsys.readouterr()
    assert complaint("evaluate", "run", "--train", "flat", "--test", "photos").startswith("flat has no labels")
    line = complaint("evaluate", "run", "--train", "photos", "--test", "photos", "--pooling", "avgg")
    assert "avgg" in line and "did you mean 'avg'?" in line


def test_a_size_beyond_memory_is_refused_before_anything_is_allocated(complaint, photos):
    line = complaint("pretrain", "photos", "--out", "run", *tiny_options(data__image_size=100_000))
    assert line.startswith("data.image_size = 100000,100000: two images alone need ")
    statistics_too = [word for word in tiny_options(data__image_size=100_000)]
    for name in ("--data.mean", "--data.std"):
        del statistics_too[statistics_too.index(name) : statistics_too.index(name) + 2]
    assert "use a smaller --data.image_size" in complaint("pretrain", "photos", "--out", "run", *statistics_too)


def test_missing_labels_say_what_to_do(complaint, photos, capsys):
    main_ok("pretrain", "photos", "--out", "run", *tiny_options(optim__batch_size=4, train__length=1))
    files = sorted(photos.rglob("*.png"))
    rows = [f"{file},{'' if number == 2 else number % 2}" for number, file in enumerate(files)]
    (photos.parent / "list.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    shutil.copy(files[0], photos.parent / "only.png")
    capsys.readouterr()
    line = complaint("evaluate", "run", "--train", "list.csv", "--test", "photos")
    assert line == "list.csv has no labels: evaluation needs them, line 4 has no label, others do: fill it in"
    line = complaint("evaluate", "run", "--train", "photos", "--test", "photos", "--max-train", "1")
    assert "photos (label) has one class only (class a, 1 images)" in line


def test_in_a_real_process_too(tmp_path):
    done = hjepa("pretrain", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert "Traceback" in hjepa("pretrain", tmp_path / "nowhere", "--out", tmp_path / "run", "--debug").stderr


def test_a_corrupt_labelled_image_offers_no_option_that_is_not_there(complaint, photos, capsys):
    main_ok("pretrain", "photos", "--out", "run", *tiny_options(optim__batch_size=4, train__length=1))
    (photos / "a" / "0.png").write_bytes((photos / "a" / "1.png").read_bytes()[:200])
    capsys.readouterr()
    line = complaint("evaluate", "run", "--train", "photos", "--test", "photos")
    assert line.startswith("photos/a/0.png cannot be read as an image (") and line.endswith(
        "): replace it or take it out"
    )


@pytest.mark.parametrize("which", ["train", "test"])
def test_evaluating_on_no_images(complaint, photos, capsys, which):
    main_ok("pretrain", "photos", "--out", "run", *tiny_options(optim__batch_size=4, train__length=1))
    capsys.readouterr()
    line = complaint("evaluate", "run", "--train", "photos", "--test", "photos", f"--max-{which}", "0")
    assert line == f"--max-{which} 0: must be at least 1, leave it out to use all images"


def test_a_resumed_run_keeps_its_length(complaint, photos, capsys):
    main_ok("pretrain", "photos", "--out", "run", *tiny_options(optim__batch_size=4, train__length=1))
    capsys.readouterr()
    assert complaint("pretrain", "photos", "--out", "run", "--resume", "--train.length", "500 epochs") == (
        "train.length = 500 epochs differs from the run's 1 steps: leave it out to resume, or use --extend-to"
    )


def test_what_was_left_open_may_be_left_open_again_on_resume(photos, capsys):
    options = tiny_options(optim__batch_size=4, train__length=1, train__precision="auto")
    main_ok("pretrain", "photos", "--out", "run", *options)
    main_ok("pretrain", "photos", "--out", "run", *options, "--resume")


def test_a_run_that_explodes_says_so(photos, here, capsys):
    options = tiny_options(optim__batch_size=4, train__length=60, optim__lr=1e10, optim__start_lr=1e10)
    with pytest.raises(SystemExit) as left:
        main(["pretrain", "photos", "--out", "run", *options])
    error = capsys.readouterr().err
    assert left.value.code == 2 and error.startswith("hjepa: diverging: 20 steps in a row"), error
    assert error.count("\n") == 1
    assert (here / "run" / "checkpoints" / "last").exists()


def test_an_interrupt_outside_training(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("hjepa.commands.doctor.doctor", interrupted)  # stands for the key
    with pytest.raises(SystemExit) as left:
        main(["doctor"])
    assert (left.value.code, capsys.readouterr().err) == (130, "hjepa: interrupted\n")


def test_an_image_size_without_a_patch_size(complaint, photos):
    assert complaint("pretrain", "photos", "--out", "run", "--data.image_size", "67") == (
        "data.image_size = 67,67 cannot be cut into about 8 equal patches a side: use multiples of 8, "
        "or choose --model.patch_size"
    )


@pytest.mark.parametrize("command", ["pretrain", "evaluate", "masks"])
def test_every_option_of_the_help_page_is_explained(command):
    page = hjepa(command, "--help").stdout.split("Settings (")[0]
    bare = re.findall(r"(--[a-z-]+) +(?:STR|INT|PATH)? *(?:\[[^\n]*\])? *│$", page, flags=re.M)
    assert not bare
    assert "--json" in page


def test_sizes_are_shown_in_one_order(photos, capsys):
    wide = tiny_options(optim__batch_size=4, train__length=1, data__image_size="16,24")
    main_ok("pretrain", "photos", "--out", "run", *wide)
    shown = capsys.readouterr().out
    assert "16x24 pixels" in shown and "4x6 patches" in shown
