"""Images read smaller than they are: what stays the same, and what cannot be seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hjepa.data.augment import DRAWS, Augment, ResizeToInput, crop_box
from hjepa.data.decode import read_image
from hjepa.data.reduce import Reduction, reduce_pixels

CROPS = Reduction((224, 224), (0.3, 1.0), (3 / 4, 4 / 3))


def photograph(height: int, width: int) -> Image.Image:
    """Return an image with edges, texture and noise at many scales."""
    random = np.random.default_rng(0)
    layers = np.zeros((height, width, 3))
    for side in (4, 16, 64, 256, 1024):
        layer = Image.fromarray(random.integers(0, 255, (side, side, 3), dtype=np.uint8))
        layers += np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC), dtype=float) / side**0.5
    layers[height // 3 : height // 2, width // 4 : width // 2] *= 0.5
    layers = 255 * layers / layers.max() + random.normal(0, 3, layers.shape)
    return Image.fromarray(layers.clip(0, 255).astype(np.uint8))


@given(
    height=st.integers(1, 4000),
    width=st.integers(1, 4000),
    low=st.floats(0.05, 1.0),
    want=st.tuples(st.integers(8, 256), st.integers(8, 256)),
    tries=st.integers(0, 2**32),
    turned=st.booleans(),
)
@settings(max_examples=300)
def test_no_crop_has_fewer_pixels_than_the_input(height, width, low, want, tries, turned):
    """Whatever is drawn, central crops of long images included; to within the rounding of a side."""
    reduction = Reduction(want, (low, 1.0), (3 / 4, 4 / 3))
    factor = reduction.factor(*(width, height) if turned else (height, width))
    _, _, crop_height, crop_width = crop_box(
        (height, width), (low, 1.0), (3 / 4, 4 / 3), np.random.default_rng(tries).random(DRAWS)
    )
    if factor > 1:
        assert (crop_height + 1) / factor >= want[0] and (crop_width + 1) / factor >= want[1]


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), how=st.sampled_from(["crop", "pad"]))
def test_no_whole_image_has_fewer_pixels_than_the_input(height, width, how):
    factor = Reduction((64, 96), how=how).factor(height, width)
    if factor > 1:
        covered = [height / factor >= 64, width / factor >= 96]
        assert all(covered) if how == "crop" else any(covered)


@pytest.mark.parametrize(
    ("size", "expected"), [((2000, 3000), 5), ((3000, 2000), 5), ((375, 500), 1), ((256, 256), 1), ((100, 30000), 1)]
)
def test_what_is_reduced(size, expected):
    assert CROPS.factor(*size) == expected


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_small_images_are_read_as_they_are(tmp_path, ending, mode):
    photograph(300, 400).convert(mode).save(tmp_path / f"a.{ending}")
    assert np.array_equal(read_image(tmp_path / f"a.{ending}", 3, CROPS), read_image(tmp_path / f"a.{ending}", 3))


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_no_difference_can_be_seen(tmp_path, ending, orientation):
    """Crops of the reduced image against the same crops of all pixels, antialiased: two of 255 levels, on average."""
    photo, file = photograph(1000, 1500), tmp_path / f"a.{ending}"
    exif = photo.getexif()
    exif[0x0112] = orientation
    photo.save(file, quality=92, exif=exif)
    augment = Augment(ResizeToInput((112, 112), 3), (0.3, 1.0), (3 / 4, 4 / 3), 0.0)
    whole, small = read_image(file, 3), read_image(file, 3, augment.reduction)
    factor = augment.reduction.factor(*whole.shape[:2])
    assert factor == 5 and max(small.shape) == (375 if ending == "jpg" else 300)  # a JPEG is decoded at a quarter
    draws = np.random.default_rng(0).random((20, DRAWS))
    differences = [
        np.abs(augment(whole, row).numpy().astype(float) - augment(small, row).numpy().astype(float)) for row in draws
    ]
    assert np.mean(differences) < 2
    assert np.percentile(differences, 99) < 10


@pytest.mark.parametrize(("kind", "bands"), [(np.uint16, 1), (np.uint16, 5), (np.uint8, 4), (np.float32, 3)])
def test_every_kind_of_values_is_averaged(kind, bands):
    pixels = np.random.default_rng(0).integers(0, 255, (31, 47, bands)).astype(kind)
    reduced = reduce_pixels(pixels, 3)
    assert reduced.dtype == kind and reduced.shape == (11, 16, bands)
    expected = pixels[3:6, 6:9].astype(float).mean((0, 1))
    assert np.allclose(reduced[1, 2], expected, atol=0.51 if kind != np.float32 else 1e-4)
    assert np.allclose(reduced[10, 15], pixels[30:, 45:].astype(float).mean((0, 1)), atol=0.51)


def test_holes_do_not_spread():
    pixels = np.ones((6, 6, 1), np.float32)
    pixels[0, 0], pixels[3:, 3:] = np.nan, np.nan
    reduced = reduce_pixels(pixels, 3)[..., 0]
    assert reduced[0].tolist() == [1.0, 1.0] and np.isnan(reduced[1, 1])


def test_bytes_are_averaged_by_pillow_as_by_numpy():
    pixels = np.asarray(photograph(64, 90))
    four = np.concatenate([pixels, pixels[..., :1]], -1)
    assert np.abs(reduce_pixels(pixels, 4).astype(int) - reduce_pixels(four, 4)[..., :3].astype(int)).max() <= 1


@given(st.integers(1, 13), st.integers(1, 13), st.integers(1, 15), st.sampled_from(["uint8", "uint16", "float32"]))
@settings(max_examples=60)
def test_a_reduced_pixel_is_the_mean_of_its_block(height, width, factor, kind):
    pixels = (np.random.default_rng(height).random((height, width, 2)) * 255).astype(kind)
    reduced = reduce_pixels(pixels, factor)
    for top, left in np.ndindex(reduced.shape[:2]):
        rows, columns = (slice(factor * place, factor * place + factor) for place in (top, left))
        mean = pixels[rows, columns].mean(axis=(0, 1), dtype=np.float64)
        expected = mean.astype(np.float32) if kind == "float32" else np.rint(mean)
        assert np.allclose(reduced[top, left], expected, rtol=1e-6) and reduced.dtype == kind
    assert reduced.shape[:2] == (-(-height // factor), -(-width // factor))
