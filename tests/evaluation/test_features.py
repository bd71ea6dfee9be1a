"""Pooling, extraction, raw pixels and the held-out split, against numbers worked out by hand."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hjepa.errors import UserError
from hjepa.evaluation import extract, pool, raw_pixels
from hjepa.evaluation.features import train_val_split


class ArrayImages:
    """Labelled images from a uint8 array ``[n, C, H, W]``."""

    def __init__(self, pixels: np.ndarray, name: str = "photos") -> None:
        self.name, self.pixels = name, torch.from_numpy(pixels)
        self.labels: dict[str, np.ndarray] = {}
        self.passes = 0

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        self.passes += 1
        yield from torch.split(self.pixels, batch_size)


class PixelEncoder:
    """Every pixel is a token of C values; block ``b`` (of ``depth``) multiplies by ``b + 1``."""

    def __init__(self, depth: int = 6, scale: float = 1.0) -> None:
        self.depth, self.scale = depth, scale

    def grid(self, images: Tensor) -> tuple[int, int]:
        return images.shape[2], images.shape[3]

    def block_tokens(self, images: Tensor, last: int) -> list[Tensor]:
        tokens = images.float().flatten(2).transpose(1, 2) * self.scale
        return [tokens * (block + 1) for block in range(self.depth)][-last:]


def images(n: int, channels: int, height: int, width: int, seed: int = 0) -> ArrayImages:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, channels, height, width), dtype=np.uint8)
    return ArrayImages(pixels)


def test_avg_is_the_mean_over_tokens_not_over_width() -> None:
    tokens = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [6.0, 60.0]]])
    assert pool([tokens], (2, 2), "avg").tolist() == [[3.0, 30.0]]


def test_avg_reads_the_last_block_only() -> None:
    first, last = torch.zeros(1, 4, 2), torch.ones(1, 4, 2)
    assert pool([first, last], (2, 2), "avg").tolist() == [[1.0, 1.0]]


def test_last4_concatenates_the_means_oldest_first() -> None:
    blocks = [torch.full((1, 4, 2), float(b)) for b in range(5)]
    assert pool(blocks, (2, 2), "last4").tolist() == [[1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]]


def test_last4_of_a_shallow_encoder_takes_what_there_is() -> None:
    blocks = [torch.full((1, 4, 2), float(b)) for b in (5, 7)]
    assert pool(blocks, (2, 2), "last4").tolist() == [[5.0, 5.0, 7.0, 7.0]]


def test_grid4_on_8x8_keeps_cells_in_raster_order_with_their_width_together() -> None:
    grid = torch.arange(64.0).reshape(8, 8)
    tokens = torch.stack([grid.flatten(), -grid.flatten()], dim=1)[None]  # [1, 64, 2]
    pooled = pool([tokens], (8, 8), "grid4")[0].reshape(16, 2)
    # The cell at row r, column c holds 8 * (2r) + 2c and its right, lower and diagonal neighbours.
    expected = [16 * r + 2 * c + (0 + 1 + 8 + 9) / 4 for r in range(4) for c in range(4)]
    assert pooled[:, 0].tolist() == expected
    assert pooled[:, 1].tolist() == [-value for value in expected]


def test_grid4_on_5x7_averages_overlapping_cells() -> None:
    grid = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    pooled = pool([torch.from_numpy(grid.reshape(1, 35, 3))], (5, 7), "grid4").reshape(4, 4, 3).numpy()
    rows = [(0, 2), (1, 3), (2, 4), (3, 5)]  # floor(i * 5 / 4) to ceil((i + 1) * 5 / 4)
    columns = [(0, 2), (1, 4), (3, 6), (5, 7)]  # the same of 7
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            cell = grid[top:bottom, left:right].mean(axis=(0, 1))
            np.testing.assert_allclose(pooled[i, j], cell, rtol=1e-5, atol=1e-6)


def test_grid4_on_a_grid_smaller_than_four_keeps_every_token() -> None:
    tokens = torch.arange(12.0).reshape(1, 6, 2)
    assert pool([tokens], (2, 3), "grid4").tolist() == [list(map(float, range(12)))]


def test_tokens_that_do_not_fill_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="5 tokens do not fill a grid of 2 x 2"):
        pool([torch.zeros(1, 5, 2)], (2, 2), "avg")


def test_extract_gives_every_pooling_in_index_order_from_one_pass() -> None:
    photos = images(7, 3, 5, 6)
    features = extract(PixelEncoder(), photos, ("avg", "last4", "grid4"), batch_size=3)
    mean = photos.pixels.float().mean(dim=(2, 3)).numpy()
    assert photos.passes == 1
    assert {name: rows.shape for name, rows in features.items()} == {
        "avg": (7, 3),
        "last4": (7, 12),
        "grid4": (7, 48),
    }
    assert all(rows.dtype == np.float32 for rows in features.values())
    np.testing.assert_allclose(features["avg"], 6 * mean, rtol=1e-5)
    np.testing.assert_allclose(features["last4"][:, :3], 3 * mean, rtol=1e-5)


def test_products_are_in_the_format_that_was_asked_for() -> None:
    seen = []

    class Projected(PixelEncoder):
        def block_tokens(self, images: Tensor, last: int) -> list[Tensor]:
            (tokens,) = super().block_tokens(images, 1)
            projected = tokens @ torch.eye(tokens.shape[-1])
            seen.append(projected.dtype)
            return [projected]

    for autocast in (None, torch.bfloat16):
        features = extract(Projected(), images(4, 3, 4, 4), ["avg"], autocast=autocast)
        assert features["avg"].dtype == np.float32
    assert seen == [torch.float32, torch.bfloat16]


def test_features_that_are_not_finite_are_counted_and_refused() -> None:
    photos = ArrayImages(np.ones((5, 3, 4, 4), dtype=np.uint8))
    photos.pixels[[1, 3]] = 200
    with pytest.raises(UserError, match=r"2 of 5 images of photos .*non-finite.*earlier checkpoint"):
        extract(PixelEncoder(scale=3e36), photos, ("avg",))


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(UserError, match=r"^photos has no images\b.*at least one"):
        extract(PixelEncoder(), images(0, 3, 4, 4), ("avg",))


def test_an_unknown_pooling_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError) as error:
        extract(PixelEncoder(), images(2, 3, 4, 4), ("gird4",))
    assert str(error.value) == ("unknown pooling 'gird4': choose from avg, last4, grid4 (did you mean 'grid4'?)")


def test_raw_pixels_are_flat_and_between_zero_and_one() -> None:
    photos = images(600, 3, 2, 2)
    pixels = raw_pixels(photos)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, photos.pixels.numpy().reshape(600, 12) / 255, rtol=1e-6)


def test_raw_pixels_drop_repeated_channels() -> None:
    grey = images(4, 1, 2, 2).pixels
    repeated = ArrayImages(grey.repeat(1, 3, 1, 1).numpy())
    np.testing.assert_array_equal(raw_pixels(repeated), raw_pixels(ArrayImages(grey.numpy())))
    assert raw_pixels(repeated, keep_channels=True).shape == (4, 12)
    repeated.pixels[3, 2, 1, 1] ^= 1  # one pixel of one image in one channel
    assert raw_pixels(repeated).shape == (4, 12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=6), st.integers(0, 5))
def test_the_split_is_stratified_and_fits_every_class(sizes: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)) * 7, sizes)
    if max(sizes) < 2:
        with pytest.raises(UserError, match="one image per class"):
            train_val_split(labels, seed=seed)
        return
    train_idx, val_idx = train_val_split(labels, seed=seed)
    assert sorted([*train_idx, *val_idx]) == list(range(len(labels)))
    assert set(labels[train_idx]) == set(labels)
    expected = max(round(0.1 * len(labels)), sum(size > 1 for size in sizes))
    assert len(val_idx) == expected
    share = expected / sum(size for size in sizes if size > 1)
    for label, size in zip(np.unique(labels), sizes, strict=True):
        held_of_class = (labels[val_idx] == label).sum()
        assert held_of_class == 0 if size == 1 else abs(held_of_class - share * size) <= 1


def test_the_split_holds_out_at_most_5000_and_follows_the_seed() -> None:
    labels = np.arange(60_000) % 10
    train_idx, val_idx = train_val_split(labels, seed=0)
    assert (len(train_idx), len(val_idx)) == (55_000, 5_000)
    assert np.bincount(labels[val_idx]).tolist() == [500] * 10
    assert val_idx.tolist() == train_val_split(labels, seed=0)[1].tolist()
    assert val_idx.tolist() != train_val_split(labels, seed=1)[1].tolist()


def test_one_class_and_one_image_per_class_are_refused() -> None:
    with pytest.raises(UserError, match=r"^photos \(label\) .*one class\b.*\(class 4, 9 images\).*at least two"):
        train_val_split(np.full(9, 4), seed=0, name="photos (label)")
    with pytest.raises(UserError, match=r"^the training set .*one image per class \(5 classes\).*k or C.*at least two"):
        train_val_split(np.arange(5), seed=0)
