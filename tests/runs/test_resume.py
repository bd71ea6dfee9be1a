"""A run that is killed and resumed ends exactly where an undisturbed one does."""

import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from commands import call, flat, last_training, last_weights, metrics, start, tree
from conftest import tiny, tiny_options

from hjepa.errors import UserError
from hjepa.runs.resume import refuse_other_configuration

STEPS = 40
OPTIONS = tiny_options(train__length=STEPS, train__log_every=1, train__checkpoint_every=3)


def pretrain(out: Path, *more: object) -> list[object]:
    return ["pretrain", "scenes", "--out", out, *OPTIONS, *more]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    done = call(*pretrain(out))
    assert done.returncode == 0, done.stderr
    return out


def steps_done(out: Path) -> int:
    file = out / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def kill_when(process: subprocess.Popen, ready) -> bool:
    """SIGKILL the process as soon as ``ready()`` is true; False if it ended before."""
    while process.poll() is None:
        if ready():
            process.kill()
            process.wait()
            return True
        time.sleep(0.0005)
    return False


def writing_a_checkpoint(out: Path):
    return lambda: any((out / "checkpoints").glob(".step-*.tmp"))


def reached(out: Path, step: int):
    return lambda: steps_done(out) >= step


def assert_identical(run: Path, expected: Path) -> None:
    ours, theirs = last_weights(run), last_weights(expected)
    assert ours.keys() == theirs.keys()
    assert [n for n in ours if not torch.equal(ours[n], theirs[n])] == []
    ours, theirs = flat(last_training(run)), flat(last_training(expected))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        same = torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name]
        assert same, name
    assert metrics(run) == metrics(expected)


def run_with_kills(out: Path, kills: list, log: Path) -> int:
    """Start, kill, resume, kill ... and let the last resume finish; return how many kills hit."""
    hits = 0
    for number, ready in enumerate([*kills, lambda: False]):
        words = (
            pretrain(out) if number == 0 or not (out / "checkpoints" / "last").exists() else pretrain(out, "--resume")
        )
        if number and "--resume" not in words:
            words.append("--overwrite")
        process = start(words, log)
        hits += kill_when(process, ready)
    assert process.returncode == 0, log.read_text()[-2000:]
    return hits


@pytest.mark.slow
def test_killed_twice_and_resumed_is_bit_identical(undisturbed, tmp_path):
    out = tmp_path / "run"
    kills = [reached(out, 8), writing_a_checkpoint(out)]
    assert run_with_kills(out, kills, tmp_path / "log") == 2
    assert_identical(out, undisturbed)


@pytest.mark.slow
def test_killed_before_its_first_checkpoint_it_begins_again(undisturbed, tmp_path):
    out = tmp_path / "run"
    process = start(pretrain(out), tmp_path / "log")
    assert kill_when(process, reached(out, 1))
    assert not list((out / "checkpoints").glob("*"))
    (out / "checkpoints" / ".step-00000003.tmp").mkdir()  # as a kill in the middle of the first one leaves it
    done = call(*pretrain(out, "--resume"))
    assert done.returncode == 0, done.stderr
    assert re.search(r"no checkpoint yet.* first step", done.stdout)
    assert_identical(out, undisturbed)


@pytest.mark.slow
def test_begun_again_it_has_the_weights_it_started_from(undisturbed, tmp_path):
    options = ("--init-from", undisturbed, "--train.checkpoint_every", 30)
    assert call(*pretrain(tmp_path / "whole", *options)).returncode == 0
    process = start(pretrain(tmp_path / "run", *options), tmp_path / "log")
    assert kill_when(process, reached(tmp_path / "run", 1))
    done = call("pretrain", "scenes", "--out", tmp_path / "run", "--resume")
    assert done.returncode == 0, done.stderr
    assert_identical(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_finished_run_without_its_checkpoints_is_not_begun_again(copy):
    for folder in (copy / "checkpoints").iterdir():
        folder.unlink() if folder.is_symlink() else subprocess.run(["rm", "-r", folder], check=True)
    assert re.search(r"checkpoints/last: .*no checkpoint.*--overwrite", refused(copy))


@pytest.mark.slow
def test_killed_at_twenty_random_moments_is_bit_identical(undisturbed, tmp_path):
    out = tmp_path / "run"
    choose = random.Random(7)
    moments = sorted(choose.sample(range(4, STEPS), 14))
    kills = [reached(out, step) for step in moments] + [writing_a_checkpoint(out)] * 6
    choose.shuffle(kills)
    hits = run_with_kills(out, kills, tmp_path / "log")
    # A kill "at step 9" hits at once when the resumed run already stands beyond it; that is a kill too.
    assert hits == 20, hits
    assert_identical(out, undisturbed)


@pytest.mark.slow
def test_sigterm_saves_and_exits_143(undisturbed, tmp_path):
    out = tmp_path / "run"
    process = start(pretrain(out), tmp_path / "log")
    while steps_done(out) < 7 and process.poll() is None:
        time.sleep(0.0005)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    text = (tmp_path / "log").read_text()
    assert re.search(rf"hjepa: .*SIGTERM.* at step .*saved.* hjepa pretrain scenes --out {out} --resume\n", text)
    assert '"status": "stopped"' in (out / "run.json").read_text()
    done = call(*pretrain(out, "--resume"))
    assert done.returncode == 0, done.stderr
    assert_identical(out, undisturbed)


@pytest.fixture
def copy(undisturbed, tmp_path):
    """A finished run to damage."""
    out = tmp_path / "run"
    subprocess.run(["cp", "-a", undisturbed, out], check=True)
    return out


def refused(out: Path, *more: object) -> str:
    """Resume, expect a one-line refusal that leaves every byte in place, and return the line."""
    before = tree(out)
    done = call(*pretrain(out, "--resume", *more))
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert tree(out) == before
    return done.stderr.strip()


def test_a_checkpoint_cut_short_is_refused(copy):
    last = copy / "checkpoints" / "last"
    file = last / "training.pt"
    file.write_bytes(file.read_bytes()[:-100])
    others = sorted(p.name for p in (copy / "checkpoints").glob("step-*") if p.name != "step-00000040")
    line = refused(copy)
    assert line.startswith(f"hjepa: {file} is damaged") and f"'ln -sfn {others[-1]} {last}' and resume" in line


def test_a_checkpoint_with_a_missing_file_is_refused(copy):
    (copy / "checkpoints" / "last" / "weights.safetensors").unlink()
    assert re.search(r"incomplete \(weights\.safetensors is missing\).*'ln -sfn step-", refused(copy))


def test_a_checkpoint_of_an_older_version_goes_on_with_what_it_computed():
    """A setting that a checkpoint does not know is at its default, and only there."""
    config = tiny().config
    saved = config.model_dump(mode="json")
    del saved["masking"]["contexts"]
    refuse_other_configuration(config, saved)
    with pytest.raises(UserError, match=r"checkpoint .*masking\.contexts = 1\b.*\b2:"):
        refuse_other_configuration(tiny(masking={"contexts": 2}).config, saved)


def test_a_run_of_an_older_version_resumes(copy):
    """Its config.yaml lacks settings that have come since: they have their defaults."""
    config = copy / "config.yaml"
    kept = [line for line in config.read_text().splitlines() if "contexts:" not in line and "optimizer:" not in line]
    config.write_text("\n".join(kept) + "\n")
    done = call(*pretrain(copy, "--resume", "--extend-to", str(STEPS + 2)))
    assert done.returncode == 0, done.stderr
    assert "optimizer: adamw  # default" in config.read_text()


def test_a_changed_setting_is_refused(copy):
    line = refused(copy, "--optim.lr", "0.5")
    assert re.search(r"^hjepa: optim\.lr = 0\.5 .*\b0\.001\b.* to resume.*new run.*--init-from", line)


@pytest.mark.parametrize(
    "words",
    [
        ["--recipe", "hjepa-tiny", "--model.width", "64"],  # the defaults have 6 heads, which do not divide it
        ["--recipe", "hjepa-tiny", "--loss.level_weights", "1,2,1"],  # the defaults have one level
    ],
)
@pytest.mark.slow
def test_the_same_command_resumes_whatever_the_defaults_are(words, tmp_path):
    """What was given was checked on its own with the defaults, and refused over numbers that no run had."""
    small = [
        "--optim.batch_size",
        "8",
        "--train.length",
        "2",
        "--model.predictor_depth",
        "1",
        "--train.precision",
        "float32",
    ]
    command = ["pretrain", "scenes", "--out", tmp_path / "run", *words, *small]
    assert call(*command).returncode == 0
    again = call(*command, "--resume")
    assert again.returncode == 0, again.stderr
    other = call(*command[:4], *words[:2], "--model.heads", "2", "--resume")
    assert other.stderr.startswith("hjepa: model.heads = 2 "), other.stderr


def test_an_edited_configuration_is_refused(copy):
    file = copy / "config.yaml"
    file.write_text(file.read_text().replace("width: 32", "width: 64", 1))
    before = tree(copy)
    done = call("pretrain", "scenes", "--out", copy, "--resume")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert re.search(r"^hjepa: .*checkpoint .*model\.width = 32\b.*\b64\b.*--init-from$", done.stderr.strip())
    assert tree(copy) == before


def test_other_images_are_refused(copy):
    before = tree(copy)
    done = call("pretrain", "scenes:test", "--out", copy, "--resume")
    assert done.returncode == 2
    assert done.stderr.startswith("hjepa: scenes:test is not ")
    assert tree(copy) == before


def test_resuming_a_finished_run_changes_no_weight(copy, undisturbed):
    done = call(*pretrain(copy, "--resume"))
    assert done.returncode == 0, done.stderr
    assert_identical(copy, undisturbed)


def test_extend_to_says_what_it_does_to_each_schedule_and_goes_on(copy):
    done = call("pretrain", "scenes", "--out", copy, "--resume", "--extend-to", 50)
    assert done.returncode == 0, done.stderr
    for name in ("lr", "weight_decay", "momentum"):
        assert f"--extend-to: {name} " in done.stdout
    assert "at step 40, horizon 40 -> 50" in done.stdout
    assert [line["step"] for line in metrics(copy)] == list(range(1, 51))
    assert "steps: 50  # derived: --extend-to, was 40" in (copy / "config.yaml").read_text()
    assert metrics(copy)[-1]["momentum"] == pytest.approx(0.996 + 0.004 * 49 / 50)


def test_extend_to_a_shorter_horizon_is_refused(copy):
    assert re.search(r"^hjepa: --extend-to 30: .*\b40 steps.*larger number$", refused(copy, "--extend-to", 30))


def test_init_from_a_run_starts_anew_from_its_weights(undisturbed, tmp_path):
    out = tmp_path / "second"
    done = call(*pretrain(out, "--init-from", undisturbed, "--train.length", 1))
    assert done.returncode == 0, done.stderr
    assert f"--init-from {undisturbed}: encoder: 29 of 29 tensors matched" in done.stdout
    assert metrics(out)[0]["step"] == 1
    third = call(*pretrain(tmp_path / "third", "--init-from", undisturbed / "encoder.safetensors", "--train.length", 1))
    assert "encoder: 29 of 29 tensors matched" in third.stdout, third.stderr


def test_keeps_only_the_newest_checkpoints_and_the_best(undisturbed):
    folder = undisturbed / "checkpoints"
    steps = {p.name for p in folder.glob("step-*")}
    best = (folder / "best").readlink().name
    assert steps == {"step-00000039", "step-00000040", best}
    assert (folder / "last").readlink().name == "step-00000040"
    assert not list(folder.glob(".*"))
