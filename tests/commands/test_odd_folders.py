"""Whole runs on folders as people have them: what is printed, what encoder.json keeps, what evaluation does with it."""

import json
import os

import numpy as np
import pytest
from commands import call
from conftest import tiny_options
from PIL import Image

import hjepa
from hjepa.errors import UserError

AUTO = {"data__channels": "auto", "data__mean": "auto", "data__std": "auto"}


def deep_frames(folder, count: int = 16) -> None:
    """Write 16-bit frames of two classes: around 29,000 and around 31,000."""
    for number in range(count):
        name, level = ("cold", 29000) if number % 2 else ("hot", 31000)
        values = level + np.random.default_rng(number).integers(0, 100, (20, 20))
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.astype(np.uint16)).save(folder / name / f"{number}.png")


def test_the_scale_of_deep_images_is_shown_kept_and_used_again(tmp_path):
    """Case 25."""
    deep_frames(tmp_path / "frames")
    run = tmp_path / "run"
    done = call("pretrain", tmp_path / "frames", "--out", run, *tiny_options(train__length=2, **AUTO))
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("data "))
    assert "values 29000 to 3109" in line and "16 images" in line
    low, high = json.loads((run / "encoder.json").read_text())["preprocess"]["value_range"]
    assert (low, 31050 < high < 31100) == (29000, True)
    assert f"value_range: [{low:g}" in (run / "config.yaml").read_text().replace(".0", "")
    # Evaluation uses the scale of training, also for frames of one temperature.
    result = hjepa.evaluate(run, train=tmp_path / "frames", test=tmp_path / "frames", protocols="knn")
    assert all(one.accuracy == 1.0 for one in result.results)
    encoder = hjepa.load_encoder(run)
    frame = np.asarray(Image.open(tmp_path / "frames" / "hot" / "0.png"))[None, None, :16, :16]
    scaled = ((frame.astype(np.float32) - low) / (high - low)).clip(0, 1)
    assert np.allclose(encoder(frame).tokens, encoder(scaled).tokens, atol=1e-5)
    again = call("pretrain", tmp_path / "frames", "--out", run, "--resume", "--extend-to", "3")
    assert again.returncode == 0, again.stderr


def test_an_encoder_of_8_bits_does_not_guess_the_scale_of_deep_images(tmp_path):
    deep_frames(tmp_path / "frames", 4)
    for number in range(4):
        image = Image.open(tmp_path / "frames" / ("cold" if number % 2 else "hot") / f"{number}.png")
        (tmp_path / "flat").mkdir(exist_ok=True)
        Image.fromarray((np.asarray(image) % 256).astype(np.uint8)).save(tmp_path / "flat" / f"{number}.png")
    run = tmp_path / "run"
    done = call("pretrain", tmp_path / "flat", "--out", run, *tiny_options(train__length=1, **AUTO))
    assert done.returncode == 0 and "values" not in done.stdout
    assert "value_range" not in json.loads((run / "encoder.json").read_text())["preprocess"]
    with pytest.raises(UserError, match=r"more than 8 bits \(uint16\)"):
        hjepa.evaluate(run, train=tmp_path / "frames", test=tmp_path / "frames", protocols="knn")
    done = call("evaluate", run, "--train", tmp_path / "frames", "--test", tmp_path / "frames", "--protocols", "knn")
    assert done.returncode == 2 and f"{tmp_path}/frames/cold/1.png: an image has more than 8 bits" in done.stderr
    done = call("embed", run, tmp_path / "frames", "--out", tmp_path / "e.csv")
    assert done.returncode == 2 and f"{tmp_path}/frames/cold/1.png: an image has more than 8 bits" in done.stderr
    with pytest.raises(UserError, match=r"uint16: pass uint8"):
        hjepa.load_encoder(run)(np.zeros((1, 1, 16, 16), np.uint16))


def test_names_that_are_not_utf_8_and_files_beside_the_images(tmp_path):
    """Cases 22 and 23."""
    folder = tmp_path / os.fsdecode(b"photos\xe9")
    for name in ("a", "b"):
        for number in range(4):
            (folder / name).mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(number + 10 * (name == "b")).integers(0, 255, (16, 16, number % 2 * 2 + 1))
            Image.fromarray(values.astype(np.uint8).squeeze()).save(folder / name / f"{number}.png")
    (folder / "a" / "1.png").rename(folder / "a" / os.fsdecode(b"caf\xe9.png"))
    (folder / "list.xyz").write_text("no image")
    run = tmp_path / os.fsdecode(b"run\xe9")
    done = call("pretrain", folder, "--out", run, *tiny_options(train__length=1, optim__batch_size=4))
    assert done.returncode == 0, done.stderr
    assert r"photos\xe9: 8 images" in done.stdout
    assert "1 file left out, which are not read as images: .xyz" in done.stdout
    assert "grey and colour images mixed: 3 channels" in done.stdout
    done = call("evaluate", run, "--train", folder, "--test", folder, "--protocols", "knn")
    assert done.returncode == 0, done.stderr
    done = call("pretrain", folder, "--out", run, "--resume", "--extend-to", "2")
    assert done.returncode == 0, done.stderr
    (folder / "b" / "0.png").rename(folder / "b" / os.fsdecode(b"\xff.png"))
    (folder / "b" / os.fsdecode(b"\xff.png")).write_bytes(b"damaged")
    broken = call("pretrain", folder, "--out", tmp_path / "other", *tiny_options(train__length=3))
    assert broken.returncode == 2 and broken.stderr.count("\n") == 1 and r"\xff.png: cannot" in broken.stderr
