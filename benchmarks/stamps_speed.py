"""The second epoch of a folder against its first, and whether batches are the same however they are read.

    python benchmarks/stamps_speed.py [FOLDER] > benchmarks/results/stamps_speed.md

FOLDER is by default where Debian's package tuxpaint-stamps-default puts its 802 PNG files.
"""

import argparse
import itertools
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import PIL
import torch

from hjepa.data.augment import Augment, ResizeToInput
from hjepa.data.loader import MicroBatchDataset, RankShard, micro_batches
from hjepa.data.sources import open_source

STAMPS = Path("/usr/share/tuxpaint/stamps")
BATCH, SIZE = 8, 96  # pixels: what a run chooses for these images
SCALE, RATIO = (0.3, 1.0), (3 / 4, 4 / 3)  # our default crops
CORRUPT_ONE_IN = 100
BATCHES = 40  # that are compared


def dataset(folder: Path, cache: str, max_bad: float = 0.05) -> MicroBatchDataset:
    """Return the images of a folder as a run with default crops reads them."""
    augment = Augment(ResizeToInput((SIZE, SIZE), 3), SCALE, RATIO, 0.0)
    return MicroBatchDataset(open_source(folder), augment, seed=0, batch_size=BATCH, max_bad=max_bad, cache=cache)


def epochs(folder: Path, cache: str, number: int) -> Iterator[tuple[float, float]]:
    """Yield seconds of processor and of wall clock for each epoch, without workers."""
    data = dataset(folder, cache)
    stream = micro_batches(data, RankShard(BATCH), first_attempt=0, workers=0)
    for _ in range(number):
        processor, clock = time.process_time(), time.perf_counter()
        for _ in range(len(data.source) // BATCH):
            next(stream)
        yield time.process_time() - processor, time.perf_counter() - clock


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
        f"`python benchmarks/stamps_speed.py`: {images} images of `{folder}`, crops of {SIZE}, no workers, one thread; "
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors (load {os.getloadavg()[0]:.0f}), "
        f"Python {platform.python_version()}, Pillow {PIL.__version__}. Seconds of processor time (of wall clock).\n"
    )
    say("| | first epoch | second epoch | third epoch | second / first |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as cache:
        for name, kept, number in (("cache on", cache, 3), ("cache off", "off", 2)):
            found = list(epochs(folder, kept, number))
            cells = [f"{processor:.2f} ({clock:.1f})" for processor, clock in found] + ["-"] * (3 - number)
            say(f"| {name} | {' | '.join(cells)} | {found[0][0] / found[1][0]:.1f}x |")
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
