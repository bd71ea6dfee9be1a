"""Exports are compared on real images where there are any, and it is said which."""

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from runs import pictures

import hjepa
from hjepa.commands.export import export
from hjepa.deploy.export.check_images import choose_images
from hjepa.errors import UserError
from hjepa.models.frozen import load_frozen


def train(images, out, **sections):
    merged = {name: {**values, **sections.get(name, {})} for name, values in TINY.items()}
    merged["train"]["length"] = 1
    return hjepa.pretrain(images, out=out, **merged)


def save(folder, count=12, mode="RGB", size=(20, 16)):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new(mode, size, number * 7 if mode == "L" else (number * 7,) * len(mode)).save(
            folder / f"{number:02}.png"
        )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("check")
    save(home / "photos")
    return train(home / "photos", home / "run")


def test_the_run_s_own_images_are_found_spread_over_the_set(run):
    chosen = choose_images(load_frozen(run.path), run.record)
    assert (chosen.kind, chosen.why_synthetic) == ("run", "")
    assert chosen.origin == f"8 of the run's own images ({run.path.parent / 'photos'})"
    assert [file.name for file in chosen.files] == [f"{n:02}.png" for n in (0, 1, 3, 4, 6, 7, 9, 10)]
    batch = chosen.batch(load_frozen(run.path))
    assert batch.shape == (8, 3, 16, 16) and batch.dtype == torch.float32
    assert batch.amax((1, 2, 3)).mul(255).round().tolist() == [n * 7.0 for n in (0, 1, 3, 4, 6, 7, 9, 10)]
    assert chosen.batch(load_frozen(run.path), (24, 8)).shape == (8, 3, 24, 8)


def test_images_that_changed_since_the_run_are_called_so(tmp_path):
    save(tmp_path / "photos", count=9)
    run = train(tmp_path / "photos", tmp_path / "run")
    save(tmp_path / "photos" / "more", count=3)
    assert "which has changed since the run)" in choose_images(load_frozen(run.path), run.record).origin
    for file in (tmp_path / "photos").rglob("*.png"):
        file.unlink()
    moved = choose_images(load_frozen(run.path), run.record)
    assert moved.kind == "synthetic" and "cannot be opened here" in moved.why_synthetic


def test_scenes_stand_in_for_an_array_whatever_folder_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = train(pictures(), tmp_path / "run")
    save(tmp_path / "pictures")  # a folder that happens to have the name of the array
    chosen = choose_images(load_frozen(run.path), run.record)
    assert (chosen.kind, chosen.origin) == ("synthetic", "8 synthetic scenes")
    assert choose_images(load_frozen(run.path), {}).why_synthetic == "no run says which images"


def test_scenes_have_as_many_channels_as_the_encoder(tmp_path):
    five = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 5), dtype=np.uint8)
    run = train(five, tmp_path / "run", data={"channels": 5, "mean": [0.5] * 5, "std": [0.25] * 5})
    done = export(run, to="timm", out=tmp_path / "timm")
    assert done.images_from == "synthetic" and done.exports[0].comparison.largest < 1e-5
    assert done.exports[0].comparison.pixels is None  # five channels are no image for Pillow


def test_given_images_are_used_and_unsuitable_ones_refused(run, tmp_path):
    encoder = load_frozen(run.path)
    save(tmp_path / "two", count=2, mode="L")
    chosen = choose_images(encoder, run.record, tmp_path / "two")
    assert (chosen.kind, len(chosen.raw)) == ("given", 2)
    assert chosen.origin == f"2 images of {tmp_path / 'two'} (--images)"
    assert chosen.as_opened(1, 3).mode == "RGB"
    with pytest.raises(UserError, match=r"--images array: images have 5 channels, but this encoder takes 3"):
        choose_images(encoder, run.record, Five())
    (tmp_path / "deep").mkdir()
    Image.fromarray(np.full((16, 16), 40_000, dtype=np.uint16)).save(tmp_path / "deep/0.png")
    with pytest.raises(UserError, match=r"--images .*deep: images have more than 8 bits, but this encoder was trained"):
        choose_images(encoder, run.record, tmp_path / "deep")
    with pytest.raises(UserError, match=r"nowhere is neither a folder nor a known dataset"):
        choose_images(encoder, run.record, tmp_path / "nowhere")


class Five:
    """A source of images with five channels."""

    name, channels, labels = "array", 5, {}

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return np.zeros((16, 16, 5), dtype=np.uint8)

    def fingerprint(self):
        return "zeros"


def test_photographs_are_opened_upright(run, tmp_path):
    """A camera that was held upright: the file lies on its side and says so."""
    (tmp_path / "photos").mkdir()
    pixels = np.zeros((10, 20, 3), dtype=np.uint8)
    pixels[:, :5] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(pixels).save(tmp_path / "photos/0.jpg", exif=exif, quality=95)
    chosen = choose_images(load_frozen(run.path), run.record, tmp_path / "photos")
    opened = np.asarray(chosen.as_opened(0, 3))
    assert opened.shape == (20, 10, 3) and np.array_equal(opened, chosen.raw[0])
