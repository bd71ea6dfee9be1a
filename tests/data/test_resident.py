"""Crops on the device are those of the CPU: the same boxes and flips, pixels at most one level apart."""

import threading
import time

import numpy as np
import pytest
import torch
from conftest import tiny
from runs import pictures

from hjepa.data.ahead import ahead
from hjepa.data.augment import DRAWS, Augment, ResizeToInput, crop_box, crop_boxes
from hjepa.data.loader import MicroBatchSampler
from hjepa.data.resident import ResidentImages, fit_on
from hjepa.data.sources import ArraySource
from hjepa.setup.build import build


def noisy(count: int, height: int, width: int, channels: int = 3) -> ArraySource:
    random = np.random.default_rng(0)
    return ArraySource("noise", random.integers(0, 256, (count, height, width, channels), dtype=np.uint8))


def augment_of(size, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), channels=3):
    return Augment(ResizeToInput(size, channels), scale, ratio, flip=0.5)


@pytest.mark.parametrize("size", [(32, 32), (9, 200), (224, 170), (1, 1)])
def test_boxes_of_a_batch_are_those_of_its_images(size):
    draws = np.random.default_rng(1).random((500, DRAWS))
    scale, ratio = (0.3, 1.0), (3 / 4, 4 / 3)
    boxes = crop_boxes(size, scale, ratio, draws)
    assert boxes.tolist() == [list(crop_box(size, scale, ratio, row)) for row in draws]
    top, left, height, width = boxes.T
    assert (height >= 1).all() and (top >= 0).all() and (top + height <= size[0]).all()
    assert (width >= 1).all() and (left >= 0).all() and (left + width <= size[1]).all()


@pytest.mark.parametrize(
    ("have", "want", "channels"), [((32, 32), (32, 32), 3), ((40, 28), (16, 24), 1), ((100, 90), (32, 32), 3)]
)
def test_pixels_of_crops_are_at_most_one_level_from_torchvision(have, want, channels):
    """Noise is the worst case: neighbours differ as much as they can."""
    source, augment = noisy(48, *have, channels), augment_of(want, channels=channels)
    resident, draws = ResidentImages(source, augment, torch.device("cpu")), np.random.default_rng(2).random((48, DRAWS))
    images = np.random.default_rng(3).permutation(48)
    found = resident.batch(resident.draw(images, draws))
    expected = augment.batch(source.batch(images), draws)
    apart = (found.int() - expected.int()).abs()
    assert found.dtype == torch.uint8 and found.shape == expected.shape
    assert apart.max() <= 1 and apart.float().mean() < 0.2


@pytest.mark.parametrize("size", [(16, 16), (24, 20)])
def test_whole_images_are_equal(size):
    source, augment = noisy(30, 24, 20), augment_of(size, scale=None)
    resident, draws = ResidentImages(source, augment, torch.device("cpu")), np.random.default_rng(2).random((30, DRAWS))
    images = np.arange(30)[::-1].copy()
    assert torch.equal(resident.batch(resident.draw(images, draws)), augment.batch(source.batch(images), draws))


def test_only_bytes_that_fit_stay_there():
    source = noisy(10, 20, 20)
    assert fit_on(source, augment_of((8, 8)), free=4 * 10 * 3 * 20 * 20)
    assert not fit_on(source, augment_of((8, 8)), free=4 * 10 * 3 * 20 * 20 - 4)
    assert fit_on(source, augment_of((8, 8), scale=None), free=4 * 10 * 3 * 8 * 8)
    deep = ArraySource("deep", np.zeros((4, 8, 8, 1), dtype=np.uint16))
    assert not fit_on(deep, augment_of((8, 8), channels=1), free=1e12)
    assert not fit_on([np.zeros((8, 8, 3), np.uint8)], augment_of((8, 8)), free=1e12)


def test_a_run_sees_the_same_images_and_masks_whether_they_stay_on_the_device_or_not():
    source, settings = pictures(), tiny(augment={"crop_scale": [0.5, 1.0]}, optim={"accumulate": 2})
    here, there = build(settings, source).batches, build(settings, source).batches
    there.resident = ResidentImages(source, there.images.augment, torch.device("cpu"))
    one_level = 1 / 255 / 0.25
    for first, second, _ in zip(here(5), there(5), range(4), strict=False):
        for ours, theirs in zip(first, second, strict=True):
            assert torch.equal(ours.context_index, theirs.context_index)
            assert torch.equal(ours.target_index, theirs.target_index)
            assert (ours.images - theirs.images).abs().max() <= 1.001 * one_level


def test_what_is_made_ahead_comes_in_order_and_its_error_in_its_place():
    def items():
        yield from range(5)
        raise ValueError("the sixth")

    found = []
    with pytest.raises(ValueError, match="the sixth"):
        for item in ahead(items()):
            found.append(item)
    assert found == list(range(5))
    assert list(ahead(iter("abc"))) == ["a", "b", "c"]


def test_a_step_on_the_cpu_does_not_wait_for_normalised_images(monkeypatch):
    batches, threads = build(tiny(), pictures()).batches, []
    normalised = batches.normalised
    monkeypatch.setattr(
        batches, "normalised", lambda pixels: threads.append(threading.current_thread().name) or normalised(pixels)
    )
    stream = batches(0)
    found = [next(stream)[0].images for _ in range(3)]
    stream.close()
    assert set(threads) == {"hjepa-ahead"}
    raw = [batches.images[index].images for index, _ in zip(MicroBatchSampler(batches.shard, 0), found, strict=False)]
    assert all(torch.equal(images, normalised(pixels)) for images, pixels in zip(found, raw, strict=True))


def test_the_thread_ends_with_the_batches():
    def count():
        return sum(thread.name == "hjepa-ahead" for thread in threading.enumerate())

    before = count()
    batches = build(tiny(), pictures()).batches(0)
    next(batches)
    assert count() == before + 2  # images and masks
    batches.close()
    until = time.monotonic() + 5
    while count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert count() == before
