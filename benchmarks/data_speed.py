"""Images per second from files to batches: ours, with and without the cache, beside PIL's and torchvision's reading.

    python benchmarks/data_speed.py > benchmarks/results/data_speed.md
    python benchmarks/data_speed.py --only "JPEG 3000x2000" --workers 0 --rounds 5

Files are made here, so that anybody can repeat it. Files lie in the page cache for all readers alike.
"""

import argparse
import functools
import itertools
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from hjepa.data.augment import DRAWS, Augment, ResizeToInput
from hjepa.data.decode import read_image
from hjepa.data.loader import MicroBatchDataset, RankShard, micro_batches
from hjepa.data.sources import open_source

BATCH = 8
SCALE, RATIO = (0.3, 1.0), (3 / 4, 4 / 3)  # our default crops, for all readers


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Return an image with edges and texture at several scales and a camera's noise, uint8 [H, W, 3]."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for side in (4, 16, 64, 256):
        layer = Image.fromarray(random.integers(0, 255, (side, side, 3), dtype=np.uint8))
        total += np.asarray(layer.resize((width, height), Image.Resampling.BILINEAR), np.float32) * side**-0.5
    total = 255 * total / total.max() + random.normal(0, 1.5, (height, width, 1)).astype(np.float32)
    return total.clip(0, 255).astype(np.uint8)


@functools.cache
def base(height: int, width: int) -> np.ndarray:
    return picture(height, width, 0)


def moved(height: int, width: int, number: int) -> np.ndarray:
    """Return the picture of a size, moved: other pixels in other places, and quickly made."""
    return np.roll(base(height, width), (37 * number, 53 * number), (0, 1))


def photos(folder: Path) -> None:
    for number in range(8):
        Image.fromarray(moved(2000, 3000, number)).save(folder / f"{number}.jpg", quality=90)


def snapshots(folder: Path) -> None:
    for number in range(24):
        Image.fromarray(moved(375, 500, number)).save(folder / f"{number}.jpg", quality=90)


def tiles(folder: Path) -> None:
    for number in range(24):
        Image.fromarray(moved(256, 256, number)).save(folder / f"{number}.png")


def stamps(folder: Path) -> None:
    """Drawings with a transparent ground, as tuxpaint's stamps."""
    for number in range(8):
        pixels = moved(800, 900, number) // 8 * 8  # drawings have few colours
        alpha = np.where(np.hypot(*np.mgrid[-1:1:800j, -1:1:900j]) < 0.9, 255, 0).astype(np.uint8)
        Image.fromarray(np.dstack([pixels, alpha])).save(folder / f"{number}.png")


def scans(folder: Path) -> None:
    import tifffile

    for number in range(8):
        values = moved(800, 1200, number).astype(np.uint16) * 257
        tifffile.imwrite(folder / f"{number}.tif", values, photometric="rgb", compression="deflate")


SETS: list[tuple[str, Callable[[Path], None], int]] = [
    ("photographs, JPEG 3000x2000", photos, 224),
    ("photographs, JPEG 500x375", snapshots, 224),
    ("tiles, PNG 256x256", tiles, 224),
    ("stamps, PNG 900x800 with alpha", stamps, 96),
    ("scans, TIFF 1200x800, 16-bit colour", scans, 224),
]


class Plain(Dataset[torch.Tensor]):
    """What a training script does without a library: read the file, crop, resize."""

    def __init__(self, paths: list[Path], read: Callable[[Path], torch.Tensor | Image.Image], size: int) -> None:
        self.paths, self.read = paths, read
        self.crop = v2.Compose([v2.RandomResizedCrop(size, SCALE, RATIO, antialias=True), v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        cropped: torch.Tensor = self.crop(self.read(self.paths[index]))
        return cropped


def by_pil(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")


def by_torchvision(path: Path) -> torch.Tensor:
    return decode_image(read_file(str(path)), ImageReadMode.RGB)


def per_second(batches: Iterator[torch.Tensor], images: int, workers: int) -> float:
    """Return images per second: of this process's own processor time without workers, of wall-clock time with them."""
    clock = time.perf_counter if workers else time.process_time
    start = clock()
    for _ in range(images // BATCH):
        next(batches)
    return images / (clock() - start)


def ours(folder: Path, size: int, workers: int, cache: str) -> Iterator[torch.Tensor]:
    source = open_source(folder)
    deep = (0.0, 65535.0) if source.deep_images else None  # type: ignore[attr-defined]
    augment = Augment(ResizeToInput((size, size), 3, value_range=deep), SCALE, RATIO, 0.0)
    data = MicroBatchDataset(source, augment, seed=0, batch_size=BATCH, cache=cache)
    return micro_batches(data, RankShard(BATCH), first_attempt=0, workers=workers)


def plain(folder: Path, size: int, workers: int, read: Callable[[Path], torch.Tensor | Image.Image]) -> float | None:
    """Return the speed of a reader; None if it cannot read these files."""
    paths = sorted(folder.iterdir())
    try:
        read(paths[0])
    except (RuntimeError, OSError):
        return None
    loader = DataLoader(Plain(paths, read, size), batch_size=BATCH, num_workers=workers)
    return per_second(iter(loader), len(paths), workers)


def in_turns(readers: dict[str, Callable[[], float | None]], rounds: int) -> dict[str, list[float]]:
    """Return the speeds of every reader, measured one after the other in each round."""
    found: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, measure in readers.items():
            if (speed := measure()) is not None:
                found[name].append(speed)
    return found


def cell(speed: float | None, base: float | None) -> str:
    if speed is None:
        return "cannot read"
    return f"{speed:.1f}" if base is None or speed == base else f"{speed:.1f} ({speed / base:.1f}x)"


def difference(path: Path, size: int) -> tuple[float, float]:
    """Return mean and 99th percentile of |reduced - all pixels| of the same crops, in levels of 255."""
    augment = Augment(ResizeToInput((size, size), 3), SCALE, RATIO, 0.0)
    whole, small = read_image(path, 3), read_image(path, 3, augment.reduction)
    draws = np.random.default_rng(0).random((12, DRAWS))
    gaps = [np.abs(augment(whole, row).numpy().astype(int) - augment(small, row).numpy().astype(int)) for row in draws]
    return float(np.mean(gaps)), float(np.percentile(gaps, 99))


def with_cache(folder: Path, size: int, workers: int, count: int) -> tuple[float, float]:
    """Return the speed of the first epoch that fills a cache, and that of the following ones."""
    with tempfile.TemporaryDirectory() as cache:
        stream = ours(folder, size, workers, cache)
        first = per_second(stream, count, workers)
        if workers:  # they have read ahead: another stream, whose second epoch begins where all is decoded
            stream = ours(folder, size, workers, cache)
            next(stream)
        return first, per_second(stream, 5 * count, workers)  # long enough for what was read ahead not to matter


def report(name: str, folder: Path, size: int, counts_of_workers: list[int], rounds: int) -> None:
    count, megabytes = len(list(folder.iterdir())), sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    say(f"\n## {name}: {count} files of {megabytes / count:.2f} MB, crops of {size}\n")
    say("| workers | PIL | torchvision | hjepa, no cache | first epoch with cache | second epoch | second / first |")
    say("|---|---|---|---|---|---|---|")
    for workers in counts_of_workers:
        readers: dict[str, Callable[[], float | None]] = {
            "PIL": functools.partial(plain, folder, size, workers, by_pil),
            "torchvision": functools.partial(plain, folder, size, workers, by_torchvision),
            "no cache": lambda w=workers: per_second(ours(folder, size, w, "off"), count, w),  # type: ignore[misc]
        }
        speeds = in_turns(readers, rounds)
        first, later = with_cache(folder, size, workers, count)
        pil, vision, uncached = (statistics.median(found) if found else None for found in speeds.values())
        row = [cell(speed, pil) for speed in (pil, vision, uncached, first, later)]
        say(f"| {workers} | {' | '.join(row)} | {later / first:.1f}x |")
        if rounds > 1:
            ratios = [bare / base for bare, base in zip(speeds["no cache"], speeds["PIL"], strict=True)]
            say(f"\nhjepa without cache / PIL, round by round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}\n")


def identical(folder: Path, size: int) -> bool:
    """Return whether batches are the same to the last bit with 0, 1, 2 workers, with and without a cache."""
    with tempfile.TemporaryDirectory() as cache:
        runs = [
            torch.stack(list(itertools.islice(ours(folder, size, workers, kept), 6)))
            for workers in (0, 1, 2)
            for kept in ("off", cache)
        ]
    return all(torch.equal(run, runs[0]) for run in runs)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure all sets, or those named, and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="measure only the sets whose name contains this")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers of loader workers")
    parser.add_argument(
        "--rounds", type=int, default=1, help="how often all readers are measured in turns; medians count"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [each for each in SETS if given.only in each[0]]
    say("# Reading images\n")
    words = " ".join(["python benchmarks/data_speed.py", *map(shlex.quote, sys.argv[1:])])
    say(f"`{words}`, Python {platform.python_version()}, torch {torch.__version__},")
    say(
        f"{torch.multiprocessing.cpu_count()} processors (shared with others while this ran), files in the page cache. "
    )
    say("Images per second; in brackets, relative to PIL in the same row. Without workers it is processor time that")
    say("counts, which other processes hardly change; with workers the clock, the start of the workers included (but")
    say("for the second epoch). Random crops of 30 to 100 % of the area.")
    with tempfile.TemporaryDirectory() as root:
        for name, make, size in chosen:
            folder = Path(root, make.__name__)
            folder.mkdir()
            make(folder)
            report(name, folder, size, given.workers, given.rounds)
        if chosen == SETS:
            tell_pixels(Path(root))


def tell_pixels(root: Path) -> None:
    say("\n## The same pixels\n")
    for name, make, size in SETS:
        same = identical(root / make.__name__, size)
        say(f"- {name}: batches with 0, 1, 2 workers, cache on and off are {'identical' if same else 'DIFFERENT'}")
    say("\n## What reading smaller changes\n")
    say("Difference between crops of the reduced and of the whole image, in levels of 255: mean, 99th percentile.\n")
    for make, size, file in ((photos, 224, "0.jpg"), (stamps, 96, "0.png")):
        mean, most = difference(root / make.__name__ / file, size)
        say(f"- {make.__name__}: {mean:.2f}, {most:.0f}")


if __name__ == "__main__":
    main()
