"""Two gloo processes see the same images and masks as one, and end with the same weights."""

import json
import re

import numpy as np
import pytest
import torch
from commands import call, last_weights, metrics
from conftest import tiny_options
from launchers import launch
from PIL import Image

OPTIONS = tiny_options(train__length=6, train__log_every=1, train__precision="float64", optim__accumulate=2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    done = call("pretrain", "scenes", "--out", out, *OPTIONS)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_accelerate_launches_the_command(alone, tmp_path):
    """A single process: without MPI or cards, accelerate starts no more, whatever number it is given."""
    done = launch("accelerate", tmp_path / "run", "pretrain", "scenes", *OPTIONS)
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs = last_weights(tmp_path / "run"), last_weights(alone)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.slow
def test_two_processes_equal_one(alone, tmp_path):
    out = tmp_path / "run"
    done = launch("torchrun", out, "pretrain", "scenes", *OPTIONS)
    assert done.returncode == 0, done.stdout + done.stderr
    for one, two in zip(metrics(alone), metrics(out), strict=True):
        assert one["step"] == two["step"]
        for name in ("loss", "grad_norm", "lr", "momentum", "teacher_distance"):
            assert one[name] == pytest.approx(two[name], rel=1e-9), (one["step"], name)
    ours, theirs = last_weights(out), last_weights(alone)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-7, atol=1e-10, msg=name)
    assert done.stdout.count("verdict    ") == 1  # only the first process speaks


@pytest.mark.slow
def test_images_of_both_processes_are_compared(tmp_path):
    """The variance-covariance term is of the whole batch, with its gradient, however many processes share it."""
    options = tiny_options(train__length=4, train__log_every=1, train__precision="float64", loss__variance_covariance=1)
    done = call("pretrain", "scenes", "--out", tmp_path / "alone", *options)
    assert done.returncode == 0, done.stderr
    done = launch("torchrun", tmp_path / "two", "pretrain", "scenes", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    for one, two in zip(metrics(tmp_path / "alone"), metrics(tmp_path / "two"), strict=True):
        for name in ("loss", "regulariser", "grad_norm"):
            assert one[name] == pytest.approx(two[name], rel=1e-9), (one["step"], name)


@pytest.mark.slow
def test_levels_come_in_alike_on_both_processes(tmp_path):
    options = tiny_options(train__length=6, train__log_every=1, train__precision="float64", loss__level_warmup=0.7)
    options += ["--model.levels", "0,1,2"]
    done = call("pretrain", "scenes", "--out", tmp_path / "alone", *options)
    assert done.returncode == 0, done.stderr
    done = launch("torchrun", tmp_path / "two", "pretrain", "scenes", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    for one, two in zip(metrics(tmp_path / "alone"), metrics(tmp_path / "two"), strict=True):
        assert one["level_weights"] == two["level_weights"]
        for name in ("loss", "grad_norm"):
            assert one[name] == pytest.approx(two[name], rel=1e-9), (one["step"], name)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    options = tiny_options(optim__batch_size=9)
    done = launch("torchrun", tmp_path / "run", "pretrain", "scenes", *options)
    assert done.returncode != 0
    assert (
        "hjepa: optim.batch_size = 9 cannot be split into 2 processes x 1 micro-batches: use --optim.batch_size 8"
        in done.stderr
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_damaged_image_ends_both_processes_after_saving(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(24):
        Image.fromarray(random.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    (folder / "23.png").write_bytes((folder / "23.png").read_bytes()[:200])
    options = tiny_options(train__length=40, train__checkpoint_every=100, optim__batch_size=4)
    done = launch("torchrun", tmp_path / "run", "pretrain", folder, *options)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith(("hjepa: ", "hjepa, "))]
    # One or both: the launcher stops the other process once one has left, before it has spoken or after.
    assert lines, done.stderr
    for line in lines:
        assert f"{folder / '23.png'}" in line and "cannot" in line, done.stderr
    assert "Connection closed" not in done.stderr
    assert (tmp_path / "run" / "checkpoints" / "last").exists(), done.stderr


@pytest.mark.slow
def test_bad_images_of_both_processes_are_counted(tmp_path):
    """Each process meets some; the list is that of one process, and so are the images in their places."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 255, (4, 4, 3), dtype=np.uint8).repeat(5, 0).repeat(5, 1)
        Image.fromarray(pixels).save(photos / f"{number:02}.png")
    for number in (2, 9, 16, 23):
        (photos / f"{number:02}.png").write_bytes(b"damaged")
    options = [*OPTIONS, "--data.max_bad", "20%"]
    alone, two = tmp_path / "alone", tmp_path / "two"
    assert call("pretrain", photos, "--out", alone, *options).returncode == 0
    done = launch("torchrun", two, "pretrain", photos, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    files = [json.loads((run / "run.json").read_text())["bad_images"]["files"] for run in (alone, two)]
    assert [file["number"] for file in sorted(files[1], key=lambda file: file["number"])] == [2, 9, 16, 23]
    assert sorted(file["name"] for file in files[0]) == sorted(file["name"] for file in files[1])
    assert [line["bad_images"] for line in metrics(alone)] == [line["bad_images"] for line in metrics(two)]
    assert metrics(two)[-1]["loss"] == pytest.approx(metrics(alone)[-1]["loss"], rel=1e-9)
    assert all(done.stdout.count(f"{number:02}.png: cannot decode") == 1 for number in (9, 16))
    refused = launch("torchrun", tmp_path / "strict", "pretrain", photos, *OPTIONS, "--data.max_bad", "10%")
    assert refused.returncode != 0
    assert re.search(r"[34] of 24 images cannot be read, more than data\.max_bad = 10 %", refused.stderr), (
        refused.stderr
    )
