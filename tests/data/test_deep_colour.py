"""Images of more than 8 bits keep their levels, from the file to the normalised tensor."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from hjepa.data.augment import ResizeToInput
from hjepa.data.decode import read_header, read_image
from hjepa.data.sources import open_source
from hjepa.errors import UnreadableImage

imagecodecs = pytest.importorskip("imagecodecs")
tifffile = pytest.importorskip("tifffile")
pillow_heif = pytest.importorskip("pillow_heif")
pillow_jxl = pytest.importorskip("pillow_jxl")


def ramp(levels: int, bands: int, *, step: int = 1) -> np.ndarray:
    """Return [256, levels / 256, bands] of every level once; each band runs another way."""
    values = (np.arange(levels) * step).astype(np.uint16).reshape(256, -1)
    opaque = np.full_like(values, levels * step - 1)
    return np.stack([values, values[::-1], values[:, ::-1], opaque][:bands], -1)


def twelve_bits(file: Path, values: np.ndarray) -> None:
    """Write red, green and blue of 12 bits, packed, as scanners and microscopes do."""
    height, width, bands = values.shape
    packed = imagecodecs.packints_encode(values.reshape(height, -1), 12)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    numbers = {256: width, 257: height, 259: 1, 262: 2, 273: 0, 277: bands, 278: height, 284: 1, 279: len(packed)}
    for tag, number in numbers.items():
        tags[tag] = number
    tags[258] = (12,) * bands
    file.write_bytes(b"II*\0\x08\0\0\0" + tags.tobytes(8) + packed)


def write(file: Path, mode: str) -> int:
    """Write a ramp; return how many levels it has."""
    if file.suffix == ".jxl" and mode.endswith("16"):
        values = ramp(65536, 1)[..., 0] if mode == "grey 16" else ramp(65536, 3)
        file.write_bytes(imagecodecs.jpegxl_encode(values, lossless=True, usecontainer=mode == "grey 16"))
        return 65536
    if mode == "grey 16":
        Image.fromarray(ramp(65536, 1)[..., 0]).save(file)
        return 65536
    bands = 4 if "alpha" in mode else 3
    if "12" in mode:
        if file.suffix == ".tif":
            twelve_bits(file, ramp(4096, bands))
        else:
            file.write_bytes(ENCODERS[file.suffix](ramp(4096, bands)))
        return 4096
    if file.suffix == ".ppm":
        file.write_bytes(b"P6\n# a scanner\n256 256\n65535\n" + ramp(65536, 3).astype(">u2").tobytes())
    elif file.suffix == ".jp2":
        file.write_bytes(imagecodecs.jpeg2k_encode(ramp(65536, bands), level=0, codecformat="jp2"))
    elif file.suffix == ".png":
        file.write_bytes(imagecodecs.png_encode(ramp(65536, bands)))
    else:
        extra = ["unassalpha"] if bands == 4 else None
        tifffile.imwrite(file, ramp(65536, bands), photometric="rgb", extrasamples=extra, compression="deflate")
    return 65536


def heic(values: np.ndarray, bits: int = 12, *, exif: bytes | None = None) -> bytes:
    """Return HEIC without loss; its encoder takes the upper bits of 16."""
    height, width, bands = values.shape
    content = np.ascontiguousarray(values << (16 - bits)).tobytes()
    image = pillow_heif.from_bytes("RGBA;16" if bands == 4 else "RGB;16", (width, height), content)
    file = io.BytesIO()
    before, pillow_heif.options.SAVE_HDR_TO_12_BIT = pillow_heif.options.SAVE_HDR_TO_12_BIT, bits == 12
    try:
        image.save(file, quality=-1, chroma=444, matrix_coefficients=0, exif=exif)
    finally:
        pillow_heif.options.SAVE_HDR_TO_12_BIT = before
    return file.getvalue()


ENCODERS = {
    ".jp2": lambda values: imagecodecs.jpeg2k_encode(values, level=0, bitspersample=12, codecformat="jp2"),
    ".avif": lambda values: imagecodecs.avif_encode(values, level=100, bitspersample=12),
    ".heic": heic,
    ".jxl": lambda values: imagecodecs.jpegxl_encode(values, lossless=True, bitspersample=12),
}
MODES = [
    ("a.png", "grey 16"), ("a.tif", "grey 16"), ("a.png", "colour 16"), ("a.tif", "colour 16"), ("a.tif", "colour 12"),
    ("a.png", "colour 16, alpha"), ("a.tif", "colour 16, alpha"), ("a.ppm", "colour 16"), ("a.jp2", "colour 16"),
    ("a.jp2", "colour 12"), ("a.avif", "colour 12"), ("a.heic", "colour 12"), ("a.jxl", "colour 12"),
    ("a.jxl", "colour 16"), ("a.jxl", "grey 16"),
]  # fmt: skip
DEEP_ALPHA = [("a.png", "colour 16, alpha"), ("a.tif", "colour 16, alpha"), ("a.jp2", "colour 16, alpha"),
              ("a.heic", "colour 12, alpha"), ("a.jxl", "colour 12, alpha")]  # fmt: skip


def as_read(name: str, values: np.ndarray) -> np.ndarray:
    """Return 12 bits as they are read: as in the file from a TIFF, of 16 bits from a photograph."""
    if values.max() > 4095 or name.endswith("tif"):
        return values
    return np.rint(values * (65535 / 4095)).astype(np.uint16)


# Cases 25 (grey) and 26 (colour) of the field log.
@pytest.mark.parametrize(("name", "mode"), MODES)
def test_every_level_is_left(tmp_path, name, mode):
    levels = write(tmp_path / name, mode)
    source = open_source(tmp_path)
    bands = 1 if "grey" in mode else 3
    assert source.channels == bands and source.deep_images == [0]
    pixels = source[0]
    assert (
        pixels.dtype == np.uint16 and [len(np.unique(band)) for band in np.moveaxis(pixels, -1, 0)] == [levels] * bands
    )
    assert np.array_equal(pixels, as_read(name, ramp(levels, bands)))
    tensor = ResizeToInput(pixels.shape[:2], bands, value_range=(0.0, float(pixels.max())))(pixels)
    assert all(len(band.unique()) == levels for band in tensor)


@pytest.mark.parametrize(("name", "mode"), DEEP_ALPHA)
def test_a_fourth_band_is_kept_if_it_is_wanted(tmp_path, name, mode):
    levels = write(tmp_path / name, mode)
    assert np.array_equal(open_source(tmp_path, 4)[0], as_read(name, ramp(levels, 4)))
    assert any("alpha channel, which is composited on white" in text for text in open_source(tmp_path).notices())


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.avif", "a.heic", "a.jxl"])
def test_alpha_is_laid_on_white_with_all_bits(tmp_path, name):
    values = np.zeros((4, 4, 4), np.uint16)
    values[..., 0], values[..., 3] = 30001, 65535 // 3
    if name == "a.png":
        (tmp_path / name).write_bytes(imagecodecs.png_encode(values))
    elif name != "a.tif":
        values[..., 0], values[..., 3] = 3001, 4095 // 3
        (tmp_path / name).write_bytes(ENCODERS[Path(name).suffix](values))
        assert read_image(tmp_path / name)[0, 0].tolist() == [16009 + 43690, 43690, 43690]  # 3001 / 4095 / 3, and 2 / 3
        assert read_image(tmp_path / name, 4)[0, 0].tolist() == [48027, 0, 0, 21845]
        return
    else:
        tifffile.imwrite(tmp_path / name, values, photometric="rgb", extrasamples=["unassalpha"])
    assert read_image(tmp_path / name)[0, 0].tolist() == [10000 + 43690, 43690, 43690]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_they_are_upright_as_images_of_8_bits_are(tmp_path, name, orientation):
    values = np.random.default_rng(0).integers(0, 256, (5, 8, 3)).astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray((values // 257).astype(np.uint8)).save(tmp_path / f"8{name}", exif=exif)
    if name == "a.png":  # the same chunk of EXIF, after the header
        whole = imagecodecs.png_encode(values)
        eight = (tmp_path / f"8{name}").read_bytes()
        first = eight.index(b"eXIf") - 4
        chunk = eight[first : first + 12 + int.from_bytes(eight[first : first + 4], "big")]
        (tmp_path / name).write_bytes(whole[:33] + chunk + whole[33:])
    else:
        tifffile.imwrite(tmp_path / name, values, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    assert np.array_equal(read_image(tmp_path / name) // 257, read_image(tmp_path / f"8{name}"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_photographs_of_phones_are_upright(tmp_path, orientation):
    """Their reader turns them itself, as it does those of 8 bits."""
    values = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a.heic").write_bytes(heic(values << 2, 10, exif=exif.tobytes()))
    pillow_heif.register_heif_opener()
    Image.fromarray(values.astype(np.uint8)).save(
        tmp_path / "8.heic", quality=-1, chroma=444, matrix_coefficients=0, exif=exif.tobytes()
    )
    deep = read_image(tmp_path / "a.heic")
    assert deep.dtype == np.uint16 and np.array_equal(deep >> 8, read_image(tmp_path / "8.heic"))
    assert read_header(tmp_path / "a.heic").size == deep.shape[:2]


def test_photographs_of_several_depths_are_equally_bright(tmp_path):
    """One value range serves all of them."""
    grey = np.full((16, 16, 3), 0.5)
    of_bits = {bits: np.rint(grey * ((1 << bits) - 1)).astype(np.uint16) for bits in (10, 12, 16)}
    (tmp_path / "a.heic").write_bytes(heic(of_bits[10], 10))
    (tmp_path / "b.avif").write_bytes(ENCODERS[".avif"](of_bits[12]))
    (tmp_path / "c.jxl").write_bytes(imagecodecs.jpegxl_encode(of_bits[10], lossless=True, bitspersample=10))
    (tmp_path / "d.png").write_bytes(imagecodecs.png_encode(of_bits[16]))
    source = open_source(tmp_path)
    assert source.deep_images == [0, 1, 2, 3]
    assert all(abs(int(level) - 32768) < 100 for number in range(4) for level in np.unique(source[number]))


def test_floats_of_jpeg_xl_stay_floats(tmp_path):
    values = np.random.default_rng(0).random((8, 24, 3)).astype(np.float32)
    (tmp_path / "a.jxl").write_bytes(imagecodecs.jpegxl_encode(values, lossless=True))
    assert np.array_equal(read_image(tmp_path / "a.jxl"), values)
    assert read_header(tmp_path / "a.jxl")[:3] == ((8, 24), 3, True)


@pytest.mark.parametrize(
    ("name", "package"),
    [("a.png", "imagecodecs"), ("a.tif", "tifffile"), ("a.jp2", "imagecodecs"), ("a.jxl", "imagecodecs")],
)
def test_without_the_package_a_line_says_that_8_bits_are_kept(tmp_path, monkeypatch, name, package):
    write(tmp_path / name, "colour 16")
    monkeypatch.setitem(sys.modules, package, None)
    source = open_source(tmp_path)
    assert source.deep_images == [] and source[0].dtype == np.uint8
    assert len(np.unique(source[0])) == 256
    (said,) = source.notices()
    assert said.startswith(
        "1 of 1 images have more than 8 bits per colour, of which 8 are kept: pip install 'hjepa[tiff]'"
    )


@pytest.mark.parametrize("name", ["a.png", "a.ppm", "a.jp2", "a.jxl"])
def test_a_damaged_deep_image_is_named(tmp_path, name):
    write(tmp_path / name, "colour 16")
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"{name}: cannot decode the image \(.*replace it"):
        read_image(tmp_path / name)
    assert read_header(tmp_path / name).deep


def test_a_tiff_without_most_of_its_strips_is_not_filled_with_zeros(tmp_path):
    """One bit of a header, and an image of five bands is a hundred times as high as what lies in its file."""
    file = tmp_path / "a.tif"
    options = {"photometric": "minisblack", "planarconfig": "contig", "compression": "zlib", "rowsperstrip": 24}
    tifffile.imwrite(file, np.ones((24, 17, 5), np.int8), **options)
    with tifffile.TiffFile(file, mode="r+") as opened:
        opened.pages[0].tags["ImageLength"].overwrite(24 * 100)
    with pytest.raises(
        UnreadableImage, match=r"a\.tif: cannot decode .* \(1 of its 100 strips or tiles are in the file"
    ):
        read_image(file)
