"""Order, crops and micro-batches are functions of (seed, position)."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from runs import pictures
from torchvision.transforms.v2 import functional as TF

from hjepa.data.augment import DRAWS, Augment, ResizeToInput, crop_box
from hjepa.data.loader import (
    MicroBatchDataset,
    MicroBatchIndex,
    RankShard,
    ResizedImages,
    micro_batches,
    pixel_statistics,
    sample_order,
)
from hjepa.data.sources import open_source
from hjepa.errors import UserError

RESIZE = ResizeToInput((16, 16), 3)
CROPS = Augment(RESIZE, (0.3, 1.0), (0.75, 4 / 3), flip=0.5)


@given(images=st.integers(1, 40), batch=st.integers(1, 17), seed=st.integers(0, 5))
def test_every_epoch_shows_every_image_once(images, batch, seed):
    attempts = -(-3 * images // batch)
    stream = np.concatenate([sample_order(seed, images, a, batch) for a in range(attempts)])
    for epoch in range(3):
        assert sorted(stream[epoch * images : (epoch + 1) * images]) == list(range(images))


def test_epochs_and_seeds_differ():
    def order(seed, attempt):
        return sample_order(seed, 100, attempt, 100).tolist()

    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) == order(0, 0)


@pytest.mark.parametrize(("processes", "micro"), [(1, 1), (1, 4), (2, 1), (2, 2), (4, 1)])
@pytest.mark.parametrize("first", [0, 3])
def test_processes_and_micro_batches_share_one_batch(processes, micro, first):
    """However it is split, and wherever it is entered, the global batch is the same."""
    whole = MicroBatchDataset(pictures(), CROPS, seed=3, batch_size=8, max_bad=0.0)
    expected = torch.cat(list(itertools.islice(micro_batches(whole, RankShard(8), first_attempt=first, workers=0), 3)))
    parts = []
    for process in range(processes):
        stream = micro_batches(whole, RankShard(8, processes, process, micro), first_attempt=first, workers=0)
        pieces = [torch.cat(list(itertools.islice(stream, micro))) for _ in range(3)]
        parts.append(pieces)
    joined = torch.cat([torch.cat([p[a] for p in parts]) for a in range(3)])
    assert torch.equal(joined, expected)


def test_workers_change_nothing(tmp_path):
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    data = MicroBatchDataset(open_source(tmp_path), CROPS, seed=1, batch_size=4, max_bad=0.0)
    streams = [micro_batches(data, RankShard(4, accumulate=2), first_attempt=2, workers=w) for w in (0, 2)]
    for _ in range(6):
        assert torch.equal(next(streams[0]), next(streams[1]))


def test_a_batch_is_cropped_like_its_images():
    images = pictures(6).images
    draws = np.random.default_rng(0).random((6, DRAWS))
    for augment in (
        CROPS,
        Augment(RESIZE, None, (1, 1), flip=0.5),
        Augment(ResizeToInput((24, 24), 3, "pad"), None, (1, 1), flip=0.5),
    ):
        one_by_one = torch.stack([augment(image, row) for image, row in zip(images, draws, strict=True)])
        assert torch.equal(augment.batch(images, draws), one_by_one)


@pytest.mark.parametrize(("bands", "value_range"), [(1, None), (3, None), (3, (0.0, 255.0))])
def test_crops_are_those_of_torchvision(bands, value_range):
    """To the last bit, whatever way they take."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (*random.integers(3, 90, 2), bands), dtype=np.uint8) for _ in range(40)]
    draws = random.random((40, DRAWS))
    found = Augment(ResizeToInput((24, 16), 3, value_range=value_range), (0.3, 1.0), (0.75, 4 / 3), 0.5)
    for image, row, crop in zip(images, draws, found.batch(images, draws), strict=True):
        box = crop_box(image.shape[:2], (0.3, 1.0), (0.75, 4 / 3), row)
        whole = torch.from_numpy(np.repeat(image, 3 // bands, axis=-1)).movedim(-1, 0)
        whole = whole if value_range is None else whole / 255
        expected = TF.resized_crop(whole, *box, [24, 16], antialias=True)
        assert torch.equal(crop, expected.flip(-1) if row[-1] < 0.5 else expected)


def test_large_images_are_cropped_a_few_at_a_time(monkeypatch, tmp_path):
    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 255, (30 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    data = MicroBatchDataset(open_source(tmp_path), CROPS, seed=1, batch_size=5)
    expected, held = data[MicroBatchIndex(2, slice(0, 5))].images, []
    monkeypatch.setattr("hjepa.data.loader.HELD", 2 * 30 * 40 * 3)
    batch = data.augment.batch
    monkeypatch.setattr(Augment, "batch", lambda _, images, draws: held.append(len(images)) or batch(images, draws))
    assert torch.equal(data[MicroBatchIndex(2, slice(0, 5))].images, expected) and held == [2, 2, 1]


@given(
    height=st.integers(4, 300), width=st.integers(4, 300), low=st.floats(0.05, 1.0), seed=st.integers(0, 1000)
)  # fmt: skip
@settings(max_examples=200)
def test_crops_lie_inside_and_keep_their_share(height, width, low, seed):
    draws = np.random.default_rng(seed).random(DRAWS)
    top, left, h, w = crop_box((height, width), (low, 1.0), (0.75, 4 / 3), draws)
    assert 0 <= top <= top + h <= height and 0 <= left <= left + w <= width and h > 0 and w > 0
    if height > 40 and width > 40 and 0.75 < width / height < 4 / 3:
        assert h * w >= 0.9 * low * height * width


def test_crops_reach_every_border():
    draws = np.random.default_rng(0).random((3000, DRAWS))
    boxes = np.array([crop_box((32, 32), (0.2, 0.9), (0.75, 4 / 3), row) for row in draws])
    assert boxes[:, 0].min() == boxes[:, 1].min() == 0
    assert (boxes[:, 0] + boxes[:, 2]).max() == (boxes[:, 1] + boxes[:, 3]).max() == 32


def test_flips_happen_as_often_as_asked():
    images = pictures(1).images.repeat(2000, axis=0)
    draws = np.random.default_rng(0).random((2000, DRAWS))
    out = Augment(RESIZE, None, (1, 1), flip=0.25).batch(images, draws)
    flipped = (out != out[int(np.argmax(draws[:, -1]))]).flatten(1).any(1).float().mean()
    assert float(flipped) == pytest.approx(0.25, abs=0.03)


def test_fit_pads_without_scaling_and_crops_the_centre():
    image = np.full((28, 28, 1), 200, dtype=np.uint8)
    padded = ResizeToInput((32, 32), 3, "pad")(image)
    assert padded.shape == (3, 32, 32)
    assert int(padded[:, 2:30, 2:30].min()) == 200
    assert int(padded.sum()) == 3 * 28 * 28 * 200
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 255
    assert int(ResizeToInput((10, 10), 3)(wide).min()) == 255
    assert ResizeToInput((8, 8), 3, "pad")(wide).shape == (3, 8, 8)


def test_a_batch_that_cannot_be_split_names_one_that_can():
    with pytest.raises(UserError, match=r"optim\.batch_size = 10 .*\b4 processes.* 8$"):
        RankShard(10, world_size=4)


def test_limits_take_images_evenly():
    source = pictures(10)
    source._labels = {"label": np.arange(10)}
    some = ResizedImages(source, RESIZE, limit=5)
    assert some.labels["label"].tolist() == [0, 2, 4, 6, 8]
    assert torch.equal(torch.cat(list(some.batches(2))), torch.stack([RESIZE(source[i]) for i in (0, 2, 4, 6, 8)]))


def test_pixel_statistics():
    source = pictures(50)
    mean, std = pixel_statistics(source, RESIZE)
    values = source.images.reshape(-1, 3) / 255.0
    assert mean == pytest.approx(values.mean(0).tolist(), abs=1e-3)
    assert std == pytest.approx(values.std(0).tolist(), abs=1e-3)


def test_damaged_images_are_replaced_only_when_allowed(tmp_path):
    for number in range(4):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"damaged")
    plain = Augment(RESIZE, None, (1, 1), flip=0.0)
    strict = MicroBatchDataset(open_source(tmp_path), plain, seed=0, batch_size=4, max_bad=0.0)
    with pytest.raises(UserError, match=r"1\.png: cannot decode"):
        next(micro_batches(strict, RankShard(4), first_attempt=0, workers=0))
    lenient = MicroBatchDataset(open_source(tmp_path), plain, seed=0, batch_size=4, max_bad=1.0)
    batch = next(micro_batches(lenient, RankShard(4), first_attempt=0, workers=0))
    assert sorted({*batch[:, 0, 0, 0].tolist()}) == [0, 2, 3]
