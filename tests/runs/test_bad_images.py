"""A run that meets unreadable files, and is resumed after they were removed or replaced."""

import json
import shutil

import numpy as np
import pytest
from commands import call, last_weights, metrics
from conftest import tiny_options
from PIL import Image
from runs import same

OPTIONS = tiny_options(
    optim__batch_size=4, train__length=8, train__log_every=1, train__checkpoint_every=4, data__max_bad="20%"
)


@pytest.fixture
def folder(tmp_path):
    """Return a folder of twelve images, the fourth and the tenth damaged."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels.repeat(5, 0).repeat(5, 1)).save(photos / f"{number:02}.bmp")
    for number in (3, 9):
        (photos / f"{number:02}.bmp").write_bytes(b"BM damaged")
    return photos


def pretrain(folder, out, *more):
    return call("pretrain", folder, "--out", out, *OPTIONS, *more)


def trained(folder, out, *more):
    done = pretrain(folder, out, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def record(out):
    return json.loads((out / "run.json").read_text())["bad_images"]


def cut_back(out):
    """Make a finished run one that was killed after its checkpoint of step 4."""
    shutil.rmtree(out / "checkpoints" / "step-00000008")
    last = out / "checkpoints" / "last"
    last.unlink()
    last.symlink_to("step-00000004")


@pytest.mark.parametrize("what", ["kept", "removed", "replaced", "gone and another damaged alike"])
@pytest.mark.slow
def test_it_goes_on_as_if_nothing_had_happened(folder, tmp_path, what):
    """Case 24."""
    told = trained(folder, tmp_path / "whole")
    assert told.count("03.bmp: cannot decode") == told.count("09.bmp: cannot decode") == 1
    assert record(tmp_path / "whole")["count"] == 2
    expected = last_weights(tmp_path / "whole"), metrics(tmp_path / "whole")
    trained(folder, tmp_path / "run")
    cut_back(tmp_path / "run")
    if what != "kept":
        (folder / "03.bmp").unlink()
    if what == "replaced":
        shutil.copy(folder / "04.bmp", folder / "03.bmp")
    if what == "gone and another damaged alike":
        (folder / "09.bmp").write_bytes(b"")
    out = trained(folder, tmp_path / "run", "--resume")
    assert "so another image takes its place" not in out  # they were named
    if what == "replaced":
        return  # from here on it is trained on
    assert same(last_weights(tmp_path / "run"), expected[0])
    assert [line["loss"] for line in metrics(tmp_path / "run")] == [line["loss"] for line in expected[1]]
    if what == "kept":
        assert metrics(tmp_path / "run") == expected[1]


def test_other_images_are_refused_whatever_their_number(folder, tmp_path):
    trained(folder, tmp_path / "run")
    for change, back in (("removed", None), ("exchanged", None), ("added", None)):
        other = tmp_path / change
        shutil.copytree(folder, other)
        if change == "removed":
            (other / "05.bmp").unlink()  # readable
        elif change == "exchanged":  # same number, names and sizes
            shutil.copy(other / "05.bmp", other / "06.bmp")
        else:
            shutil.copy(other / "05.bmp", other / "13.bmp")
        done = pretrain(other, tmp_path / "run", "--resume")
        assert done.returncode == 2 and "is not the data this run was trained on" in done.stderr, (change, back)


def test_too_many_end_it_and_removing_them_lets_it_go_on(folder, tmp_path):
    """Case 24: what was deleted as told is no reason to refuse a resume."""
    stopped = pretrain(folder, tmp_path / "run", "--data.max_bad", "10%")
    assert stopped.returncode == 2 and stopped.stderr.count("\n") == 1
    assert ".bmp: cannot decode" in stopped.stderr and "2 of 12 images cannot be read" in stopped.stderr
    assert record(tmp_path / "run")["count"] == 2
    for number in (3, 9):
        (folder / f"{number:02}.bmp").unlink()
    trained(folder, tmp_path / "run", "--resume")
    trained(folder, tmp_path / "run", "--resume", "--extend-to", "9")


def test_a_run_of_an_earlier_version_resumes(folder, tmp_path):
    """Its fingerprint knows nothing of the content, and its config.yaml has data.corrupt."""
    trained(folder, tmp_path / "run")
    file, config = tmp_path / "run" / "run.json", tmp_path / "run" / "config.yaml"
    told = json.loads(file.read_text())
    told["data"]["fingerprint"] = told["data"]["fingerprint"].rpartition("-")[0]
    file.write_text(json.dumps(told))
    lines = config.read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("  max_bad:"))
    lines[place] = "  corrupt: skip  # command line"
    config.write_text("\n".join(lines) + "\n")
    trained(folder, tmp_path / "run", "--resume", "--extend-to", "9")
