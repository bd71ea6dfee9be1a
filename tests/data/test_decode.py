"""From files to pixels: orientation, modes, damage."""

import numpy as np
import pytest
from PIL import Image

from hjepa.data.decode import read_image, to_channels
from hjepa.data.reduce import Reduction
from hjepa.errors import UnreadableImage, UserError


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, channels), dtype=np.uint8)


def test_colour_is_read_as_it_is(tmp_path):
    Image.fromarray(noise(5, 7)).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), noise(5, 7))


def test_grey_keeps_one_channel(tmp_path):
    Image.fromarray(noise(5, 7, 1)[..., 0]).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), noise(5, 7, 1))


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(noise(4, 8))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    image.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(noise(4, 8), -1))


# What each orientation of EXIF asks for, to see the image upright.
UPRIGHT = {
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.swapaxes(0, 1),
    6: lambda seen: np.rot90(seen, -1),
    7: lambda seen: seen[::-1, ::-1].swapaxes(0, 1),
    8: lambda seen: np.rot90(seen),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_all_eight_orientations(tmp_path, orientation):
    blocks = noise(4, 6).repeat(16, 0).repeat(16, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for ending in ("jpg", "png", "tif", "webp", "avif"):
        Image.fromarray(blocks).save(tmp_path / f"a.{ending}", exif=exif, quality=100)
        for reduction in (None, Reduction((16, 16))):
            pixels = read_image(tmp_path / f"a.{ending}", 3, reduction)
            side = blocks.shape[0] // min(pixels.shape[:2])
            expected = UPRIGHT[orientation](blocks[::side, ::side]).astype(int)
            assert pixels.shape == expected.shape and np.abs(pixels - expected).mean() < 8, (ending, reduction)


@pytest.mark.parametrize(("ending", "kind"), [("png", np.uint16), ("tif", np.uint16), ("tif", np.float32)])
def test_deep_grey_is_read_as_it_is(tmp_path, ending, kind):
    ramp = np.linspace(1000, 60000, 64).astype(kind).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / f"a.{ending}")
    pixels = read_image(tmp_path / f"a.{ending}")
    assert pixels.dtype == kind and np.array_equal(pixels[..., 0], ramp)


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png")
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[1, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["P", "CMYK", "1", "LA"])
def test_other_modes_are_read(tmp_path, mode):
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(noise(6, 6)).convert(mode).save(file)
    assert read_image(file).shape == (6, 6, 1 if mode in ("1", "LA") else 3)


def test_a_file_cut_short_is_named(tmp_path):
    file = tmp_path / "a.jpg"
    Image.fromarray(noise(64, 64)).save(file)
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(UnreadableImage, match=r"a\.jpg\b.*cannot decode .*image \(.*\).*replace it"):
        read_image(file)


def test_a_text_file_is_named(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(UserError, match=r"a\.png\b.*cannot decode .*image \(not an image file\)"):
        read_image(tmp_path / "a.png")


def test_channels():
    grey, colour = noise(3, 3, 1), noise(3, 3)
    assert np.array_equal(to_channels(grey, 3), grey.repeat(3, -1))
    expected = np.rint(colour @ np.array([0.299, 0.587, 0.114]))
    assert np.abs(to_channels(colour, 1)[..., 0] - expected).max() <= 1
    with pytest.raises(UserError, match=r"5 channels.*data\.channels = 3: .*--data\.channels 5"):
        to_channels(noise(2, 2, 5), 3)
