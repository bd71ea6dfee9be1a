"""What a person reads after a mistake: one line with the thing, the value and the remedy; exit code 2; nothing lost."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import hjepa, tree
from conftest import tiny_options
from PIL import Image

from hjepa.cli import app, main
from hjepa.data.sources import named


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory of our own, so that messages hold short paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photos(here):
    folder = here / "photos"
    for seed, name in enumerate(("a/1.png", "a/2.png", "b/3.png", "b/4.png")):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(file)
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
    """Case 34: it was one line of 69,025 characters."""
    line = complaint("pretrain", *(f"photos/{number}.jpg" for number in range(5000)), "--out", "run")
    assert re.search(r"one DATA.*photos/1\.jpg and 4,998 more.*folder.*\.txt", line) and len(line) < 300
    for command in ("check", "embed --out e.npy run"):
        line = complaint(*command.split(), *(f"photos/{number}.jpg" for number in range(5000)))
        assert re.search(r"unexpected argument .* and 4,99\d more: pass the folder .*\.txt", line) and len(line) < 300
    assert re.search(r"unexpected argument more: .*hjepa doctor --help", complaint("doctor", "more"))
    assert re.search(r"photos/\*\.jpg is a pattern: pass the folder, photos, or", complaint("check", "photos/*.jpg"))


# What must stand in each line, in this order: the thing, its value, the remedy. The words between may change.
CASES = {
    "levels from deep to shallow": ("pretrain scenes --out run --model.levels 4,2,0", r"model\.levels.*0,2,4$"),
    "crops in training, black bars in evaluation": (
        "pretrain photos --out run --data.fit pad --augment.crop_scale 0.5,1.0",
        r"data\.fit = pad.*augment\.crop_scale.*data\.fit crop.*augment\.crop_scale none",
    ),
    "images compared over a split batch": (
        "pretrain scenes --out run --loss.variance_covariance 1 --optim.accumulate 2",
        r"loss\.variance_covariance.*accumulate = 2.*accumulate 1.*batch_size.*variance_covariance 0",
    ),
    "a budget without a unit": (
        "pretrain scenes --out run --budget 20",
        r"^--budget 20: .*time.*90s, 20min, 8h or 2d",
    ),
    "a budget that is no time": (
        "pretrain scenes --out run --budget soon",
        r"^--budget soon: .*time.*2340 steps, 300 epochs or 20min",
    ),
    "two lengths": (
        "pretrain scenes --out run --budget 20min --train.length 5",
        r"--budget and --train\.length both.*one of them",
    ),
    "a length of earlier versions": (
        "pretrain scenes --out run --train.steps 5",
        r"^--train\.steps is now --train\.length, such as --train\.length '300 steps'$",
    ),
    "a length that a run writes": (
        "pretrain scenes --out run --horizon.steps 5",
        r"^--horizon\.steps .*cannot be set: use --train\.length$",
    ),
    "what to do with damaged images": (
        "pretrain scenes --out run --data.corrupt skip",
        r"^--data\.corrupt is now --data\.max_bad, the fraction .*--data\.max_bad 1%$",
    ),
    "more bad images than there are": ("pretrain scenes --out run --data.max_bad 5", r"^data\.max_bad = 5: .*1$"),
    "a loss where it was": ("pretrain scenes --out run --optim.loss l2", r"^--optim\.loss is now --loss\.kind$"),
    "a setting of another sampler": (
        "masks --grid 8x8 --masking.sampler random --masking.target_aspect 1,2",
        r"^masking\.target_aspect .*masking\.sampler multiblock or ijepa-reference.*leave it out",
    ),
    "a sampler that does not exist": (
        "masks --grid 8x8 --masking.sampler blocks",
        r"^masking\.sampler = 'blocks': .*multiblock, random, ijepa-reference$",
    ),
    "missing folder": ("pretrain nowhere --out run", r"^nowhere .*check the path.*cifar10, fashion-mnist or scenes"),
    "plan of a run that exists": (
        "pretrain scenes --out run --plan --resume",
        r"--plan.*new run.*--resume, --extend-to and --init-from",
    ),
    "masks with a setting of another section": (
        "masks --grid 8x8 --data.image_size 28",
        r"--data\..*hjepa masks.*section masking",
    ),
    "no masks": ("masks --grid 8x8 --steps 0", r"^--steps 0: must be at least 1$"),
    "a reference sampler that would never end": (
        "masks --grid 8x8 --masking.sampler ijepa-reference --masking.min_keep 10",
        r"masking\.min_keep = 10.*masking\.target_scale.* 9 patches.*8x8 grid.* 8$",
    ),
    "random masks that do not fit": (
        "masks --grid 8x8 --masking.sampler random --masking.context_scale 0.85,1 --masking.target_scale 0.15,0.2",
        r"masking\.context_scale = \(0\.85, 1\.0\).*masking\.target_scale = \(0\.15, 0\.2\).*\b64\b.*\b12\b.*8x8 grid.*"
        r"0\.3,0\.3 and 0\.7,0\.7",
    ),
    "gradients that nothing predicts": (
        "pretrain scenes --out run --recipe hjepa-tiny --model.levels 4 --loss.pixel_targets gradients",
        r"loss\.pixel_targets = gradients.*depth 0.*levels.*--loss\.pixel_targets values",
    ),
    "folder without images": ("pretrain empty --out run", r"^empty .*no images.*\.bmp.*\.jpeg.*\.png.*\.webp"),
    "a file as data": ("pretrain notes.md --out run", r"^notes\.md is a file.*folder.*\.txt.*\.csv.*\.npz"),
    "empty list": ("pretrain empty.txt --out run", r"^empty\.txt .*no images.*path"),
    "list with a missing file": ("pretrain list.txt --out run", r"^list\.txt .*gone\.png.*does not exist.*list"),
    "list without its column": ("pretrain table.csv --out run", r"^table\.csv .*'path'.*first line.*path.*label"),
    "unknown split": (
        "pretrain fashion-mnist:val --out run",
        r"fashion-mnist.*'val'.*fashion-mnist, fashion-mnist:train, fashion-mnist:test",
    ),
    "unknown recipe": (
        "pretrain scenes --out run --recipe hjepa-smal",
        r"'hjepa-smal', did you mean hjepa-small\?.*demo, hjepa-base, .*hjepa-small, hjepa-tiny, ijepa-code",
    ),
    "misspelt setting": (
        "pretrain scenes --out run --optim.lrr 1",
        r"^unknown setting --optim\.lrr, did you mean --optim\.lr\?$",
    ),
    "setting in the wrong section": (
        "pretrain scenes --out run --train.lr 1",
        r"--train\.lr, did you mean --optim\.lr\?$",
    ),
    "misspelt option": ("pretrain scenes --out run --recpie demo", r"--recpie, did you mean --recipe\?$"),
    "misspelt setting in a file": (
        "pretrain scenes --out run --config typo.yaml",
        r"model\.widht.*typo\.yaml, did you mean model\.width\?$",
    ),
    "file that is not YAML": (
        "pretrain scenes --out run --config broken.yaml",
        r"^--config broken\.yaml, line 2\b.*YAML",
    ),
    "file that is missing": ("pretrain scenes --out run --config gone.yaml", r"^--config gone\.yaml: no such file"),
    "wrong value in a file": (
        "pretrain scenes --out run --config wrong.yaml",
        r"^optim\.lr = 'fast' \(file wrong\.yaml\): .*number",
    ),
    "wrong value": ("pretrain scenes --out run --optim.batch_size many", r"^optim\.batch_size = 'many': .*integer"),
    "value out of range": (
        "pretrain scenes --out run --ema.momentum 1.5",
        r"^ema\.momentum = 1\.5: .*less than or equal to 1$",
    ),
    "unknown choice": (
        "pretrain scenes --out run --train.precision bf8",
        r"^train\.precision = 'bf8': .*'auto', 'bf16', 'fp16', 'float32' or 'float64'",
    ),
    "setting without a value": ("pretrain scenes --out run --optim.lr", r"^--optim\.lr needs a value.*0\.001"),
    "budget without a value": (
        "pretrain scenes --out run --train.length",
        r"^--train\.length needs a value.*'100 epochs'",
    ),
    "patch size that does not divide": (
        "pretrain scenes --out run --data.image_size 30 --model.patch_size 4",
        r"model\.patch_size = 4.*data\.image_size = 30.*28 or 32",
    ),
    "grid too small": (
        "pretrain scenes --out run --data.image_size 16 --model.patch_size 16",
        r"1x1 grid.*2x2",
    ),
    "grid that is none": ("masks --grid large", r"^--grid large: .*14x14$"),
    "width that heads do not divide": (
        "pretrain scenes --out run --model.heads 5",
        r"model\.width = 128.*divisible by 4.*5 heads",
    ),
    "batch that cannot be split": (
        "pretrain scenes --out run --recipe ijepa-small --optim.batch_size 10 --optim.accumulate 4",
        r"optim\.batch_size = 10 .*\b1 process.*\b4 micro-batches.*--optim\.batch_size 8$",
    ),
    "micro-batch of one image": (
        "pretrain scenes --out run --recipe ijepa-small --optim.batch_size 4 --optim.accumulate 4",
        r"optim\.batch_size = 4: .*at least 2 images.*--optim\.batch_size.*--optim\.accumulate",
    ),
    "no out folder": ("pretrain scenes", r"^--out is missing.*--out runs/first$"),
    "out folder that is not empty": (
        "pretrain scenes --out full",
        "^--out full: not empty; continue that run with --resume, replace it with --overwrite, or name another folder$",
    ),
    "overwriting what is no run": ("pretrain scenes --out full --overwrite", r"^--out full: .*not a run.*--overwrite"),
    "out that is a file": ("pretrain scenes --out notes.md", r"^--out notes\.md: .*is a file.*folder$"),
    "resuming nothing": ("pretrain scenes --out run --resume", r"^run is not a run.*run\.json"),
    "resume and overwrite": (
        "pretrain scenes --out run --resume --overwrite",
        r"--resume and --overwrite.*continue.*replace",
    ),
    "extending without resuming": (
        "pretrain scenes --out run --extend-to 9",
        r"--extend-to.*add --resume.*--train\.length",
    ),
    "fp16 on a CPU": (
        "pretrain scenes --out run --train.device cpu --train.precision fp16",
        r"^train\.precision = fp16: .*bf16 or float32 on a CPU$",
    ),
    "starting weights that are missing": (
        "pretrain scenes --out run --init-from gone.safetensors",
        r"^--init-from gone\.safetensors: .*not exist.*run folder or.*weights",
    ),
    "starting weights that are damaged": (
        "pretrain scenes --out run --init-from bad.safetensors",
        r"^--init-from bad\.safetensors: .*damaged.*safetensors",
    ),
    "starting weights that are something else": (
        "pretrain scenes --out run --init-from notes.md",
        r"^--init-from notes\.md: .*safetensors.*checkpoint.*UnpicklingError",
    ),
    "evaluating what is no run": (
        "evaluate empty --train scenes --test scenes:test",
        r"^empty .*no encoder.*encoder\.safetensors.*a run\b",
    ),
    "reporting what is no run": ("report empty", r"^empty is not a run.*run\.json"),
    "unknown command": (
        "pretrian scenes",
        r"pretrian.*Did you mean \"pretrain\"\?.*audit,.*evaluate,.*hjepa --help",
    ),
    "settings where there are none": ("doctor --optim.lr 1", r"--optim\.lr.*hjepa doctor --help"),
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
    assert re.search(expected, complaint(*words.split()))


def test_corrupt_image(complaint, photos, here, capsys):
    (photos / "a" / "0.png").write_bytes((photos / "a" / "1.png").read_bytes()[:200])
    words = ["pretrain", "photos", *tiny_options(optim__batch_size=4, train__length=2)]
    line = complaint(*words, "--out", "run", "--data.mean", "none")  # measuring the mean meets it
    assert re.search(
        r"^photos/a/0\.png: cannot decode.*; 1 of 5 .*data\.max_bad = 1 %: replace it, .*--data\.max_bad 50%$", line
    )
    assert "delete" not in line
    main_ok(*words, "--out", "run", "--data.max_bad", "50%")
    assert (here / "run" / "encoder.safetensors").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_skipped_images_are_named(photos, here, capsys, workers):
    (photos / "a" / "2.png").write_bytes(b"damaged")
    main_ok(
        "pretrain", "photos", "--out", "run",
        *tiny_options(optim__batch_size=4, train__length=2, train__log_every=1),
        "--data.max_bad", "0.5", "--data.workers", str(workers),
    )  # fmt: skip
    out = capsys.readouterr().out
    assert out.count("photos/a/2.png: cannot decode the image (not an image file), so another image takes") == 1
    assert re.search(r"1 of 4 images could not be read.*replaced.*photos/a/2\.png", out)
    assert re.search(r"^step 2/2 .* bad images 1 ", out, re.MULTILINE)
    told = json.loads((here / "run" / "run.json").read_text())["bad_images"]
    assert (told["count"], told["of"], told["files"][0]["path"]) == (1, 4, "a/2.png")


def test_corrupt_image_met_while_training_saves_what_was_learned(photos, here, capsys):
    (photos / "a" / "0.png").write_bytes((photos / "a" / "1.png").read_bytes()[:200])
    with pytest.raises(SystemExit) as left:
        main(["pretrain", "photos", "--out", "run", *tiny_options(optim__batch_size=2, train__length=9)])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert re.search(r"^hjepa: photos/a/0\.png\b.*cannot decode", error) and error.count("\n") == 1
    assert '"status": "failed"' in (here / "run" / "run.json").read_text()


def main_ok(*words: str) -> None:
    with pytest.raises(SystemExit) as left:
        main([*words])
    assert left.value.code == 0


def test_checkpoint_of_another_shape(complaint, photos, capsys):
    main_ok("pretrain", "photos", "--out", "small", *tiny_options(optim__batch_size=4, train__length=1))
    capsys.readouterr()
    wide = tiny_options(model__width=64, optim__batch_size=4)
    line = complaint("pretrain", "photos", "--out", "run", "--init-from", "small/encoder.safetensors", *wide)
    assert re.search(r"^--init-from small/encoder.safetensors: .*0 of 29 tensors.*set --model\.width 32$", line)


def test_not_enough_memory(complaint):
    big = {"optim.batch_size": 4000000, "model.width": 1024, "model.heads": 16, "train.attention": "plain"}
    exact = {"train.precision": "float32", "data.mean": "0,0,0", "data.std": "1,1,1"}
    words = [word for name, value in (big | exact).items() for word in (f"--{name}", str(value))]
    line = complaint("pretrain", "scenes", "--out", "run", *words)
    assert re.search(r"^optim\.batch_size = 4000000: .*\d GB.*smaller --optim\.batch_size$", line)


def test_impossible_masks_name_the_nearest_possible(complaint):
    line = complaint(*["masks", "--grid", "14x14", "--masking.target_scale", "0.95,1.0"])
    assert re.search(r"^masking\.target_scale = \(0\.95, 1\.0\).*the nearest possible.* \d", line)


def test_cuda_that_is_not_there(complaint):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    line = complaint("pretrain", "scenes", "--out", "run", "--train.device", "cuda")
    assert re.search(r"^train\.device = cuda: .*not available.*\bcpu\b", line)


def test_fashion_mnist_absent_and_offline_says_all_three_ways(complaint, monkeypatch):
    from torchvision import datasets

    def offline(*_args, **_kwargs):
        raise OSError("no network")

    monkeypatch.setattr(named, "FASHION_FOLDERS", (Path("fashion-mnist"),))
    monkeypatch.setattr(datasets, "FashionMNIST", offline)  # stands for the network
    line = complaint("pretrain", "fashion-mnist", "--out", "run")
    assert re.search(r"^fashion-mnist .*dataset-fashion-mnist.*\./fashion-mnist.*online.*torchvision", line)


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
    assert re.search(r"^data\.image_size = 100000,100000: .*\d GB.*smaller --data\.image_size$", line)
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
    assert re.search(r"^list\.csv has no labels.*line 4\b", line)
    line = complaint("evaluate", "run", "--train", "photos", "--test", "photos", "--max-train", "1")
    assert re.search(r"^photos \(label\).*one class.*\(class a, 1 image", line)


@pytest.mark.slow
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
    assert re.search(r"^photos/a/0\.png\b.*cannot decode.*replace it", line) and "--data.max_bad" not in line


@pytest.mark.parametrize("which", ["train", "test"])
def test_evaluating_on_no_images(complaint, photos, capsys, which):
    main_ok("pretrain", "photos", "--out", "run", *tiny_options(optim__batch_size=4, train__length=1))
    capsys.readouterr()
    line = complaint("evaluate", "run", "--train", "photos", "--test", "photos", f"--max-{which}", "0")
    assert re.search(rf"^--max-{which} 0: must be at least 1\b.*all images$", line)


def test_a_resumed_run_keeps_its_length(complaint, photos, capsys):
    main_ok("pretrain", "photos", "--out", "run", *tiny_options(optim__batch_size=4, train__length=1))
    capsys.readouterr()
    line = complaint("pretrain", "photos", "--out", "run", "--resume", "--train.length", "500 epochs")
    assert re.search(r"train\.length = 500 epochs .*1 steps.*--extend-to$", line)


def test_what_was_left_open_may_be_left_open_again_on_resume(photos, capsys):
    options = tiny_options(optim__batch_size=4, train__length=1, train__precision="auto")
    main_ok("pretrain", "photos", "--out", "run", *options)
    main_ok("pretrain", "photos", "--out", "run", *options, "--resume")


def test_a_run_that_explodes_says_so(photos, here, capsys):
    options = tiny_options(optim__batch_size=4, train__length=60, optim__lr=1e10, optim__start_lr=1e10)
    with pytest.raises(SystemExit) as left:
        main(["pretrain", "photos", "--out", "run", *options])
    error = capsys.readouterr().err
    assert left.value.code == 2 and re.search(r"^hjepa: .*diverg.*\b20\b.*--optim\.lr below 1e\+10", error), error
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
    line = complaint("pretrain", "photos", "--out", "run", "--data.image_size", "67")
    assert re.search(r"^data\.image_size = 67,67 .*multiples? of 8.*--model\.patch_size$", line)


COMMANDS = [name for name in app if not name.startswith("-") and name != "audit"]  # whose words are the script's


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_the_help_page_is_explained(command):
    arguments = app[command].assemble_argument_collection(parse_docstring=True)
    options = [each for each in arguments if each.parameter.parse is not False and each.name != "*"]
    assert len(options) >= (command != "doctor")
    assert [each.name for each in options if not each.parameter.help] == []


def test_sizes_are_shown_in_one_order(photos, capsys):
    wide = tiny_options(optim__batch_size=4, train__length=1, data__image_size="16,24")
    main_ok("pretrain", "photos", "--out", "run", *wide)
    shown = capsys.readouterr().out
    assert "16x24 pixels" in shown and "4x6 patches" in shown


@pytest.mark.parametrize(
    ("before", "given", "expected"),
    [("", None, "passive"), ("", "active", "active"), ("import torch", None, None)],
    ids=["set", "a choice is respected", "too late for OpenMP"],
)
def test_waiting_threads_sleep_unless_the_user_says_otherwise(before, given, expected):
    code = f"""
{before}
import os
from hjepa.cli import main
try:
    main(["--version"])
except SystemExit:
    print(repr(os.environ.get("OMP_WAIT_POLICY")))
"""
    own = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    own |= {} if given is None else {"OMP_WAIT_POLICY": given}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == repr(expected)
