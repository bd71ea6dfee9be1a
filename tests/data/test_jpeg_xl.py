"""The header of JPEG XL says what its decoder then gives."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hjepa.data.jpeg_xl import CONTAINER, JpegXL, read_jpeg_xl_header

imagecodecs = pytest.importorskip("imagecodecs")

SIDES = st.integers(1, 40) | st.sampled_from([256, 264, 511, 700])


def encoded(height: int, width: int, bands: int, bits: int, *, lossless: bool, container: bool) -> bytes:
    values = np.random.default_rng(0).integers(0, 1 << bits, (height, width, bands))
    pixels = values.astype(np.uint8 if bits == 8 else np.uint16)
    image = pixels[..., 0] if bands == 1 else pixels
    return imagecodecs.jpegxl_encode(image, lossless=lossless, bitspersample=bits, usecontainer=container, effort=3)


@given(SIDES, SIDES, st.integers(1, 4), st.sampled_from([8, 9, 10, 12, 14, 16]), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_header_says_what_is_decoded(height, width, bands, bits, lossless, container):
    content = encoded(height, width, bands, bits, lossless=lossless, container=container)
    found = read_jpeg_xl_header(io.BytesIO(content))
    decoded = imagecodecs.jpegxl_decode(content)
    assert found.size == decoded.shape[:2] == (height, width)
    assert (found.colours, found.alpha) == (3 if bands > 2 else 1, bands in (2, 4))
    assert (found.bits, found.is_float, found.plain) == (bits, False, True)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (15, 18), (15, 20), (20, 30), (18, 32), (20, 25), (11, 22)])
@pytest.mark.parametrize("scale", [1, 8])
def test_widths_that_follow_from_the_height(height, width, scale):
    content = encoded(scale * height, scale * width, 3, 16, lossless=True, container=False)
    assert read_jpeg_xl_header(io.BytesIO(content)).size == (scale * height, scale * width)


@given(st.binary(max_size=40), st.integers(0, 60), st.booleans())
@settings(deadline=None)
def test_a_damaged_header_is_no_accident(junk, kept, container):
    content = encoded(9, 17, 4, 16, lossless=True, container=container)
    for damaged in (content[:kept] + junk, content[:kept], b"\xff\x0a" + junk):
        found = read_jpeg_xl_header(io.BytesIO(damaged))
        assert found is None or isinstance(found, JpegXL)
    assert read_jpeg_xl_header(io.BytesIO(content[:4])) is None


@pytest.mark.parametrize("length", [0, 15, 1 << 62, (1 << 64) - 1])
def test_a_box_of_impossible_length_ends_the_search(tmp_path, length):
    """A seek to there raises OSError in a file, and OverflowError in memory."""
    (tmp_path / "a.jxl").write_bytes(CONTAINER + b"\0\0\0\1Exif" + length.to_bytes(8, "big") + bytes(64))
    with (tmp_path / "a.jxl").open("rb") as file:
        assert read_jpeg_xl_header(file) is None
    assert read_jpeg_xl_header(io.BytesIO((tmp_path / "a.jxl").read_bytes())) is None
