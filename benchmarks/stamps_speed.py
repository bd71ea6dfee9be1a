"""The second epoch of a folder against its first and against Pillow, and whether batches are the same however read.

    python benchmarks/stamps_speed.py [FOLDER] > benchmarks/results/stamps_speed.md

FOLDER is by default where Debian's package tuxpaint-stamps-default puts its 802 PNG files.
"""

import argparse
import itertools
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torchvision.transforms import v2

from hjepa.data.augment import Augment, ResizeToInput, crop_boxes
from hjepa.data.loader import MicroBatchDataset, MicroBatchSampler, RankShard, micro_batches
from hjepa.data.sources import open_source

STAMPS = Path("/usr/share/tuxpaint/stamps")
BATCH, SIZE = 8, 96  # pixels: what a run chooses for these images
SCALE, RATIO = (0.3, 1.0), (3 / 4, 4 / 3)  # our default crops
CORRUPT_ONE_IN = 100
BATCHES = 40  # that are compared
ROUNDS = 5  # of all kinds of epochs, in turn


def dataset(folder: Path, cache: str, max_bad: float = 0.05) -> MicroBatchDataset:
    """Return the images of a folder as a run with default crops reads them."""
    augment = Augment(ResizeToInput((SIZE, SIZE), 3), SCALE, RATIO, 0.0)
    return MicroBatchDataset(open_source(folder), augment, seed=0, batch_size=BATCH, max_bad=max_bad, cache=cache)


def epochs(folder: Path, cache: str, number: int) -> list[float]:
    """Return microseconds of processor time that an image takes in each epoch, without workers."""
    data = dataset(folder, cache)
    stream = micro_batches(data, RankShard(BATCH), first_attempt=0, workers=0)
    batches, found = len(data.source) // BATCH, []
    for _ in range(number):
        start = time.process_time()
        for _ in range(batches):
            next(stream)
        found.append(1e6 * (time.process_time() - start) / (batches * BATCH))
    return found


def by_pillow(folder: Path) -> float:
    """Return the microseconds that an image takes as a script reads it: opened whole, cropped, resized, stacked."""
    paths = list(open_source(folder).paths)  # type: ignore[attr-defined]
    crop = v2.Compose([v2.RandomResizedCrop(SIZE, SCALE, RATIO, antialias=True), v2.PILToTensor()])
    batches, start = len(paths) // BATCH, time.process_time()
    for first in range(0, batches * BATCH, BATCH):
        images = []
        for path in paths[first : first + BATCH]:
            with Image.open(path) as file:
                images.append(crop(file.convert("RGB")))
        torch.stack(images)
    return 1e6 * (time.process_time() - start) / (batches * BATCH)


def a_round(folder: Path) -> dict[str, float]:
    """Return the microseconds of an image in each kind of epoch, measured one after the other."""
    with tempfile.TemporaryDirectory() as cache:
        first, second = epochs(folder, cache, 2)
        later, _ = epochs(folder, cache, 2)  # a new cache object: each image is checked against its checksum
    uncached, _ = epochs(folder, "off", 2)
    found = {"first epoch, the cache is filled": first, "second epoch": second, "first epoch of a later run": later}
    return found | {
        "without the cache": uncached,
        "plain Pillow": by_pillow(folder),
        "the resize alone": resizes(folder),
    }


def resizes(folder: Path) -> float:
    """Return the microseconds that torch's kernel takes for the crops of an epoch: what no cache can save."""
    data = dataset(folder, "off")
    taken, indices = 0.0, MicroBatchSampler(RankShard(BATCH), 0)
    for index in itertools.islice(indices, len(data.source) // BATCH):
        numbers, draws = data.drawn(index)
        images = [data.images[number] for number in numbers.tolist()]
        boxes = crop_boxes(np.array([image.shape[:2] for image in images]), SCALE, RATIO, draws).tolist()
        for image, (top, left, height, width) in zip(images, boxes, strict=True):
            crop = torch.from_numpy(image[top : top + height, left : left + width].copy())[None].permute(0, 3, 1, 2)
            start = time.process_time()
            torch.nn.functional.interpolate(crop, (SIZE, SIZE), mode="bilinear", antialias=True)
            taken += time.process_time() - start
    return 1e6 * taken / (len(data.source) // BATCH * BATCH)


def damaged_copy(folder: Path, copy: Path) -> tuple[int, int]:
    """Copy the smallest 300 images, and damage one in a hundred; return how many there are and how many are damaged."""
    files = sorted(open_source(folder).paths, key=lambda path: path.stat().st_size)[:300]  # type: ignore[attr-defined]
    for number, file in enumerate(files):
        shutil.copy(file, copy / f"{number:04}{file.suffix}")
        if number % CORRUPT_ONE_IN == 50:
            whole = file.read_bytes()
            (copy / f"{number:04}{file.suffix}").write_bytes(whole[: len(whole) // 2])
    return len(files), sum(number % CORRUPT_ONE_IN == 50 for number in range(len(files)))


def identical(folder: Path) -> tuple[int, set[int]]:
    """Return how many different series of batches 0, 1, 2 workers with and without a cache give, and the bad counts."""
    series, bad = [], set()
    with tempfile.TemporaryDirectory() as cache:
        for workers, kept in itertools.product((0, 1, 2), ("off", cache)):
            data = dataset(folder, kept)
            stream = micro_batches(data, RankShard(BATCH), first_attempt=0, workers=workers)
            series.append(torch.stack(list(itertools.islice(stream, BATCHES))))
            bad.add(len(data.bad))
            stream.close()  # type: ignore[attr-defined]
    return len({run.numpy().tobytes() for run in series}), bad


def spread(values: list[float], digits: int) -> str:
    """Format a median, the smallest and the largest value."""
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=STAMPS)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    images = len(open_source(folder))
    say = lambda text: print(text, file=sys.stdout, flush=True)  # noqa: E731
    say("# The second epoch against the first\n")
    say(
        f"`python benchmarks/stamps_speed.py`: {images} images of `{folder}`, batches of {BATCH}, crops of {SIZE}, no "
        f"workers, one thread; {platform.processor() or platform.machine()}, {os.cpu_count()} processors (load "
        f"{os.getloadavg()[0]:.0f}), Python {platform.python_version()}, Pillow {PIL.__version__}. Microseconds of "
        f"processor time an image; medians of {ROUNDS} rounds of all rows (smallest to largest). The ratio is that of "
        "the second epoch of the same round.\n"
    )
    rounds = [a_round(folder) for _ in range(ROUNDS)]
    say("| | microseconds | times the second epoch |\n|---|---|---|")
    for name in rounds[0]:
        ratios = [each[name] / each["second epoch"] for each in rounds]
        say(f"| {name} | {spread([each[name] for each in rounds], 0)} | {spread(ratios, 1)} |")
    with tempfile.TemporaryDirectory() as place:
        count, damaged = damaged_copy(folder, Path(place))
        different, bad = identical(Path(place))
    say("\n## The same batches\n")
    say(
        f"{count} images, {damaged} of them cut in half; {BATCHES} batches of {BATCH} with 0, 1 and 2 workers, each "
        f"with and without the cache: {'identical' if different == 1 else f'{different} DIFFERENT series'}; "
        f"unreadable images counted: {', '.join(map(str, sorted(bad)))} in each of the six."
    )


if __name__ == "__main__":
    main()
