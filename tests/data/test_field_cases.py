"""Folders as people have them: deep images, many bands, odd names and endings, mixed kinds and sizes.

The numbers of cases are those of benchmarks/results/field_cases.md.
"""

import logging
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny
from PIL import Image, TiffImagePlugin

from hjepa.data import decode
from hjepa.data.alike import content_notices
from hjepa.data.augment import Augment, ResizeToInput
from hjepa.data.decode import read_image
from hjepa.data.loader import pixel_statistics
from hjepa.data.sources import open_source
from hjepa.errors import UserError
from hjepa.models.encoder import normalise_pixels
from hjepa.setup.autoconfig import resize_of, resolve_auto
from hjepa.setup.build import build

AUTO = {"channels": None, "mean": None, "std": None}


def pattern(seed: int, height: int = 40, width: int = 40, bands: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, bands), dtype=np.uint8)


def save(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file)


def resolved(source, **data):
    """Return the resolved settings of tiny runs on a source, and its images at the encoder's input."""
    result = resolve_auto(tiny(data=AUTO | data), source)
    return result, resize_of(result.config)


# ---- more than 8 bits: one scale for all ---------------------------------------------------------


def test_the_same_value_is_the_same_brightness_in_every_file(tmp_path):
    """Case 25."""
    for number in range(8):
        texture = pattern(number)[..., 0].astype(np.uint16) // 8
        save(tmp_path / f"{number}.png", texture + (29000 if number % 2 else 31000))
    source = open_source(tmp_path)
    result, resize = resolved(source)
    low, high = result.config.data.value_range
    assert 29000 <= low < 29005 and 31025 < high <= 31031
    assert "8 images" in result.origin["data.value_range"]
    cold, hot = resize(source[1]), resize(source[0])
    assert cold.dtype == torch.float32 and float(cold.max()) < 0.1 and float(hot.min()) > 0.9
    assert 0.4 < result.config.data.mean[0] < 0.6 and result.config.data.std[0] > 0.4


@pytest.mark.parametrize("size", [16, 40])
def test_a_hot_pixel_in_every_file_decides_nothing(tmp_path, size):
    """Case 25."""
    for number in range(6):
        values = 100 + 3 * pattern(number, size, size)[..., 0].astype(np.uint16)
        values[5, 7], values[6, 7] = 65535, 0
        save(tmp_path / f"{number}.png", values)
    low, high = resolved(open_source(tmp_path))[0].config.data.value_range
    assert 50 < low < 150 and 700 < high < 900


def test_a_dark_frame_stays_dark(tmp_path):
    """Case 25."""
    for number in range(8):
        values = pattern(number)[..., 0].astype(np.uint16)
        save(tmp_path / f"{number}.tif", values % 3 + 100 if number == 3 else 100 + 100 * values)
    source = open_source(tmp_path)
    assert float(resolved(source)[1](source[3]).max()) < 0.01


def test_a_broken_frame_among_many_decides_nothing(tmp_path):
    for number in range(100):
        values = pattern(number, 8, 8)[..., 0].astype(np.uint16) + 300
        save(tmp_path / f"{number}.png", np.full_like(values, 65535) if number == 50 else values)
    assert resolved(open_source(tmp_path))[0].config.data.value_range[1] < 600


def test_a_ramp_keeps_its_values_through_to_the_normalised_tensor(tmp_path):
    """Case 25: none of them is clipped, because hardly anything lies beyond the percentiles."""
    save(tmp_path / "a.png", np.arange(65536, dtype=np.uint16).reshape(256, 256))
    save(tmp_path / "b.png", np.arange(65536, dtype=np.uint16)[::-1].reshape(256, 256))
    source = open_source(tmp_path)
    result, resize = resolved(source, image_size=[256, 256])
    whole = Augment(resize, None, (1, 1), 0.0)(source[0], np.ones(23))
    data = result.config.data
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    assert len(normalise_pixels(whole, mean, std).unique()) == 65_536


def test_floats_with_holes(tmp_path):
    values = np.random.default_rng(0).normal(-3, 1, (2, 20, 20)).astype(np.float32)
    values[:, 0, 0], values[:, 0, 1] = np.nan, np.inf
    for number in range(2):
        save(tmp_path / f"{number}.tif", values[number])
    source = open_source(tmp_path)
    result, resize = resolved(source, image_size=[20, 20], channels=1)
    image = resize(source[0])
    assert float(image[0, 0, 0]) == 0 and float(image[0, 0, 1]) == 1 and 0.3 < result.config.data.mean[0] < 0.7


def test_the_range_can_be_given_and_8_bits_need_none(tmp_path):
    for number in range(2):
        save(tmp_path / "deep" / f"{number}.png", pattern(number)[..., 0].astype(np.uint16))
        save(tmp_path / "flat" / f"{number}.png", pattern(number)[..., 0])
    deep, flat = open_source(tmp_path / "deep"), open_source(tmp_path / "flat")
    result, resize = resolved(deep, value_range=[0, 1000], image_size=[40, 40])
    assert result.config.data.value_range == (0, 1000)
    assert np.allclose(resize(deep[0])[0].numpy(), pattern(0)[..., 0] / 1000)
    assert resolved(flat)[0].config.data.value_range is None and resolved(flat)[1](flat[0]).dtype == torch.uint8
    with pytest.raises(UserError, match=r"data\.value_range = 0,9 .*more than 8 bits.*flat has none: omit it"):
        resolved(flat, value_range=[0, 9])
    with pytest.raises(
        UserError, match=r"more than 8 bits \(uint16\).*encoder is trained on images of 8 bits: convert"
    ):
        ResizeToInput((16, 16), 1)(deep[0])


def test_8_and_16_bits_mixed(tmp_path):
    save(tmp_path / "a.png", pattern(0)[..., 0])
    save(tmp_path / "b.png", pattern(1)[..., 0].astype(np.uint16) * 100)
    source = open_source(tmp_path)
    _, resize = resolved(source, image_size=[40, 40])
    assert np.allclose(resize(source[0])[0].numpy(), pattern(0)[..., 0] / 255)
    assert any("1 of 2 images have more than 8 bits" in text for text in source.notices())


def test_deep_colour_becomes_deep_luminance():
    image = np.random.default_rng(0).integers(0, 4000, (4, 4, 3)).astype(np.uint16)
    grey = ResizeToInput((4, 4), 1, value_range=(0, 4000))(image)
    assert np.allclose(grey[0].numpy(), image @ [0.299, 0.587, 0.114] / 4000, atol=1e-5)


def test_statistics_of_floats_are_those_of_bytes(tmp_path):
    for number in range(5):
        save(tmp_path / f"{number}.png", pattern(number))
    source = open_source(tmp_path)
    as_bytes, as_floats = (pixel_statistics(source, ResizeToInput((40, 40), 3, value_range=r)) for r in (None, (0, 1)))
    assert np.allclose(as_bytes, as_floats, atol=2e-4)


def test_a_dataset_of_deep_pil_images():
    images = [Image.fromarray(pattern(n)[..., 0].astype(np.uint16) + 5000 * n) for n in range(4)]
    low, high = resolved(open_source(images))[0].config.data.value_range
    assert 0 <= low < 10 and 15000 < high < 15300


# ---- channels and sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize("colour", [{1}, set(range(1, 128, 2)), {127}])
def test_one_file_in_colour_makes_three_channels(tmp_path, colour):
    """Case 23."""
    for number in range(128):
        save(tmp_path / f"{number:03}.png", pattern(number, 4, 4)[..., slice(None) if number in colour else 0])
    source = open_source(tmp_path)
    assert source.channels == 3
    expected = f"grey and colour images mixed: 3 channels ({128 - len(colour)} grey, {len(colour)} colour)"
    assert source.notices() == [expected]
    assert open_source(tmp_path, 1).channels == 1


def test_a_damaged_file_does_not_make_a_grey_folder_colour(tmp_path):
    save(tmp_path / "a.png", pattern(0)[..., 0])
    (tmp_path / "b.png").write_bytes(b"no image")
    assert open_source(tmp_path).channels == 1


@pytest.mark.parametrize(("icons", "expected"), [([0], 96), ([29], 96), ([0, 1, 2, 15], 96), (list(range(20)), 28)])
def test_the_size_is_that_of_most_images(tmp_path, icons, expected):
    """Case 32."""
    for number in range(30):
        save(tmp_path / f"{number:03}.png", pattern(number, *((24, 24) if number in icons else (100, 130))))
    result, _ = resolved(open_source(tmp_path), image_size=None)
    assert result.config.image_size == (expected, expected)
    side = 24 if expected == 28 else 100
    assert f"median shorter side of 30 images is {side} pixels (24 to 100)" in result.origin["data.image_size"]


def test_the_size_of_a_dataset_is_that_of_most_images():
    images = [pattern(n, 20 if n == 0 else 60, 70) for n in range(9)]
    assert resolved(open_source(images), image_size=None)[0].config.image_size == (64, 64)


# ---- bands -----------------------------------------------------------------------------------------


def four_bands(file: Path, extra: int | None) -> np.ndarray:
    """Write a TIFF of red, green, blue and one more band, of which the file says ``extra``; None: nothing."""
    values = pattern(7, 6, 5, 4)
    file.parent.mkdir(parents=True, exist_ok=True)
    if extra == 2:
        Image.fromarray(values, "RGBA").save(file)
        return values
    raw_tiff(file, values, photometric=2, extra=extra)
    return values


def raw_tiff(file: Path, values: np.ndarray, *, photometric: int = 1, extra: int | None = None) -> None:
    """Write an uncompressed TIFF of any bands, as microscopes and satellites have them."""
    height, width, bands = values.shape
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    numbers = {256: width, 257: height, 259: 1, 262: photometric, 273: 0, 277: bands, 278: height, 284: 1}
    for tag, number in (numbers | {279: values.nbytes}).items():
        tags[tag] = number
    tags[258] = (values.dtype.itemsize * 8,) * bands
    tags[339] = (3 if values.dtype.kind == "f" else 1,) * bands
    if extra is not None:
        tags[338] = (extra,) * (bands - 3)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"II*\0\x08\0\0\0" + tags.tobytes(8) + values.tobytes())  # it shifts the 0 of 273 itself


def test_alpha_is_what_the_file_calls_so(tmp_path):
    """Case 27."""
    values = four_bands(tmp_path / "said" / "a.tif", 2)
    source = open_source(tmp_path / "said")
    assert source.channels == 3 and source[0].shape == (6, 5, 3)
    assert any("1 of 1 images have an alpha channel" in text and "channels 4" in text for text in source.notices())
    kept = open_source(tmp_path / "said", 4)
    assert kept.channels == 4 and np.array_equal(kept[0], values) and kept.notices() == []


def test_a_fourth_band_of_which_nothing_is_said_is_a_band(tmp_path):
    """Case 27."""
    values = four_bands(tmp_path / "a.tif", None)
    source = open_source(tmp_path)
    assert source.channels == 4 and np.array_equal(source[0], values) and source.notices() == []
    assert np.array_equal(open_source(tmp_path, 3)[0], values[..., :3])


def test_four_bands_in_a_png(tmp_path):
    values = pattern(0, bands=4)
    save(tmp_path / "a.png", values)
    assert np.array_equal(open_source(tmp_path, 4)[0], values)


@pytest.mark.parametrize(
    ("bands", "kind", "photometric"),
    [
        (5, np.uint8, 1),
        (5, np.uint8, 2),
        (13, np.uint16, 1),
        (3, np.float32, 1),
        (4, np.uint16, 2),
        (2, np.uint16, 1),
        (2, np.uint8, 1),
    ],
)
@pytest.mark.parametrize("reader", ["installed", "missing"])
def test_many_bands(tmp_path, caplog, monkeypatch, bands, kind, photometric, reader):
    """Case 28."""
    values = (pattern(1, 6, 5, bands) * np.array(3)).astype(kind)
    raw_tiff(tmp_path / "a.tif", values, photometric=photometric, extra=0 if photometric == 2 else None)
    with caplog.at_level(logging.WARNING, logger="PIL"):
        source = open_source(tmp_path)
    assert source.channels == bands and not caplog.records
    if reader == "missing":
        monkeypatch.setitem(sys.modules, "tifffile", None)
        with pytest.raises(UserError, match=rf"a\.tif is a TIFF of {bands} bands of .*pip install 'hjepa\[tiff\]'"):
            source[0]
        return
    pytest.importorskip("tifffile")
    assert source[0].dtype == kind and np.array_equal(source[0], values)
    assert bool(source.deep_images) == (kind != np.uint8)


def test_bands_in_planes_and_compressed(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    values = pattern(0, 6, 5, 7).astype(np.uint16) * 50
    planes = np.moveaxis(values, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="minisblack", planarconfig="separate")
    tifffile.imwrite(tmp_path / "b.tif", values, photometric="minisblack", planarconfig="contig", compression="zstd")
    assert all(np.array_equal(image, values) for image in open_source(tmp_path))


def test_a_second_band_is_no_transparency(tmp_path):
    """Cases 27 and 28: Pillow drops it."""
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", pattern(0, 6, 5, 2), photometric="minisblack", planarconfig="contig")
    source = open_source(tmp_path)
    assert source.channels == 2 and np.array_equal(source[0], pattern(0, 6, 5, 2))
    assert np.array_equal(open_source(tmp_path, 1)[0], pattern(0, 6, 5, 2)[..., :1])


def test_complex_numbers_are_refused_in_one_line(tmp_path):
    """Case 28, of a kind that no encoder takes: half of it would be dropped."""
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", pattern(0, 6, 5, 1)[..., 0] * np.complex64(1j))
    with pytest.raises(UserError, match=r"a\.tif holds complex numbers: convert it to their magnitudes$"):
        open_source(tmp_path)[0]


def test_bands_that_cannot_be_mixed_are_named(tmp_path):
    save(tmp_path / "a.png", pattern(0))
    raw_tiff(tmp_path / "b.tif", pattern(0, bands=5))
    with pytest.raises(UserError, match=r"images of 3 and of 5 bands are mixed \(such as .*b\.tif\)"):
        open_source(tmp_path)


# ---- huge files, odd names and endings, nothing to see ---------------------------------------------


@pytest.mark.parametrize("ending", ["txt", "csv"])
def test_a_list_of_names_that_are_not_utf_8(tmp_path, ending):
    """Case 22, of lists."""
    save(tmp_path / os.fsdecode(b"caf\xe9.png"), pattern(0))
    head = "" if ending == "txt" else "path,label\n"
    lines = head.encode() + (b"caf\xe9.png\n" if ending == "txt" else b"caf\xe9.png,gar\xe7on\n")
    (tmp_path / f"list.{ending}").write_bytes(lines)
    source = open_source(tmp_path / f"list.{ending}")
    assert len(source) == 1 and source.classes in ([], [r"gar\xe7on"]) and source.fingerprint()
    (tmp_path / f"list.{ending}").write_bytes(head.encode() + b"th\xe9.png\n")
    with pytest.raises(UserError, match=r"lists .*th\\xe9\.png, which does not exist; it is not UTF-8 text"):
        open_source(tmp_path / f"list.{ending}")
    (tmp_path / f"list.{ending}").write_text(f"{head}caf\u00e9.png\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"is not UTF-8 text: save it as UTF-8$"):
        open_source(tmp_path / f"list.{ending}")


@pytest.mark.parametrize("ending", ["png", "tif", "gif", "jpg", "webp"])
def test_a_huge_image_is_read_without_a_warning(tmp_path, monkeypatch, ending):
    """Case 29."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # of 40 x 40: far beyond Pillow's second limit, too
    Image.fromarray(pattern(0)).save(
        tmp_path / f"huge.{ending}", **({"compression": "tiff_lzw"} if ending == "tif" else {})
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = open_source(tmp_path)
        assert source[0].shape == (40, 40, 3)
    assert Image.MAX_IMAGE_PIXELS == 50


@pytest.mark.parametrize(("number", "kind", "value"), [(258, 7, b"ab"), (277, 7, b"ab"), (277, 3, 0), (256, 3, 0)])
def test_a_header_whose_numbers_make_no_sense_is_one_line(tmp_path, number, kind, value):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in {256: 4, 257: 4, 258: 16, 262: 1, 277: 1}.items():
        tags[tag] = value
    tags.tagtype[number], tags[number] = kind, value
    (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0" + tags.tobytes(8) + bytes(99))
    with pytest.raises(UserError, match=r"a\.tif: cannot decode"):
        read_image(tmp_path / "a.tif")


def test_a_header_that_claims_more_than_its_file_can_hold(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", pattern(0).astype(np.uint16), photometric="rgb")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages[0].tags["ImageLength"].overwrite(60_000_000)
    with pytest.raises(UserError, match=r"a\.tif: cannot decode.*claims 1\.4e\+10 bytes of pixels in a file of"):
        read_image(tmp_path / "a.tif")


def test_a_name_that_is_not_utf_8(tmp_path):
    """Case 22."""
    folder = tmp_path / os.fsdecode(b"gar\xe7on")
    for number in range(3):
        save(folder / f"{number}.png", pattern(number))
    (folder / "1.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    source = open_source(tmp_path)
    before = source.fingerprint()
    assert len(source) == 3 and source.classes == [r"gar\xe7on"] and source[2].shape == (40, 40, 3)
    (folder / os.fsdecode(b"caf\xe9.png")).rename(folder / os.fsdecode(b"caf\xea.png"))
    assert open_source(tmp_path).fingerprint() != before
    (folder / os.fsdecode(b"caf\xea.png")).write_bytes(b"damaged")
    with pytest.raises(UserError) as met:
        list(open_source(tmp_path))
    assert r"caf\xea.png" in str(met.value) and str(met.value).isascii()


def test_every_kind_that_pillow_reads_is_used_whatever_its_ending(tmp_path):
    """Case 35, of rarer kinds; a file that only has such an ending is left out and counted."""
    for ending in ("tga", "pcx", "sgi", "qoi", "ico", "dds", "pbm"):
        Image.fromarray(pattern(0)).convert("1" if ending == "pbm" else "RGB").save(tmp_path / f"a.{ending}")
    (tmp_path / "model.tga").write_text("no image")
    (tmp_path / "table.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90))
    source = open_source(tmp_path)
    assert len(source) == 7 and all(image.shape[2] in (1, 3) for image in source)
    assert any(text.startswith("2 files left out") for text in source.notices())


def test_images_of_other_endings_are_used_and_other_files_counted(tmp_path):
    """Case 35."""
    picture = Image.fromarray(pattern(0))
    for name, kind in [("a.jfif", "JPEG"), ("b.jp2", "JPEG2000"), ("c", "PNG"), ("d.0001", "GIF"), ("e.bak", "BMP")]:
        picture.save(tmp_path / name, format=kind)
    count = 5
    if decode.Image.registered_extensions().get(".avif") in Image.SAVE:
        picture.save(tmp_path / "f.avif")
        count += 1
    (tmp_path / "labels.csv").write_text("a,b")
    (tmp_path / "notes.txt").write_text("BM is a text")
    (tmp_path / "video.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(20))
    (tmp_path / "empty").touch()
    source = open_source(tmp_path)
    assert len(source) == count and all(image.shape == (40, 40, 3) for image in source)
    (said,) = source.notices()
    assert said.startswith("4 files left out") and all(each in said for each in (".csv", ".txt", ".mp4", "no ending"))


def test_a_folder_without_images_names_what_it_has(tmp_path):
    (tmp_path / "a.mov").write_bytes(b"\0\0\0\x18ftypqt  " + bytes(20))
    with pytest.raises(UserError, match=r"contains no images.*1 file left out.*\.mov"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("picture", "said"),
    [(np.zeros((40, 40, 3), np.uint8), r"empty \(black\)"), (pattern(0), "the same picture")],
)
def test_images_all_alike_are_refused_before_training(tmp_path, picture, said):
    """Case 31."""
    for number in range(20):
        save(tmp_path / f"{number}.png", picture)
    with pytest.raises(UserError, match=rf"^all 20 images .* are {said}, so nothing can be learned"):
        build(tiny(data=AUTO), open_source(tmp_path))
    with pytest.raises(UserError, match=said):  # with everything given, too
        build(tiny(), open_source(tmp_path))
    save(tmp_path / "13.png", pattern(1))
    build(tiny(), open_source(tmp_path))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("two", "only 2 different pictures"),
        ("encoded anew", "nearly the same picture"),
        ("a covered lens", "nearly the same picture"),
        ("moved", None),
    ],
)
def test_images_from_which_little_can_be_learned_are_told(tmp_path, kind, said):
    """Case 31, of other kinds: a verdict that blames the settings would be wrong."""
    scene = np.kron(pattern(0, 5, 5), np.ones((8, 8, 1), np.uint8))
    for number in range(20):
        values = {
            "two": pattern(number % 2),
            "encoded anew": scene,
            "a covered lens": pattern(number) % 3,
            "moved": np.roll(scene, number, 1),
        }[kind]
        Image.fromarray(values).save(
            tmp_path / f"{number}.jpg", quality=(60 + number) if kind == "encoded anew" else 95
        )
    found = content_notices(open_source(tmp_path), ResizeToInput((32, 32), 3))
    assert [text for text in found if "pictur" in text] == found
    assert len(found) == (said is not None) and (said is None or said in found[0])


def test_many_blank_images_are_told(tmp_path):
    for number in range(10):
        save(tmp_path / f"{number}.png", np.full((20, 20, 3), 9 * number, np.uint8) if number < 3 else pattern(number))
    source = open_source(tmp_path)
    (said,) = content_notices(source, ResizeToInput((16, 16), 3))
    assert said.startswith("3 of 10 images looked at are blank")
    assert content_notices(open_source(pattern(0, 16, 48).reshape(3, 16, 16, 3)), ResizeToInput((16, 16), 3)) == []


def test_deep_images_all_alike_and_a_single_image(tmp_path):
    save(tmp_path / "one" / "a.png", pattern(0)[..., 0].astype(np.uint16) * 9)
    build(tiny(data=AUTO), open_source(tmp_path / "one"))
    for number in range(3):
        save(tmp_path / "same" / f"{number}.png", np.full((20, 20), 700, np.uint16))
    with pytest.raises(UserError, match=r"^all 3 images .*nothing can be learned"):
        build(tiny(data=AUTO), open_source(tmp_path / "same"))


def test_channel_of_a_deep_image_is_read_with_its_bands(tmp_path):
    save(tmp_path / "a.png", pattern(0)[..., 0].astype(np.uint16))
    assert read_image(tmp_path / "a.png", 4).shape == (40, 40, 1)
