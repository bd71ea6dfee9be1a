"""Training that waits for images: what would help, and the cache of decoded images, which is begun if it does."""

import os
import shutil
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from hjepa.config import Config
from hjepa.data.augment import DRAWS
from hjepa.data.loader import MicroBatchDataset
from hjepa.data.survey import sample_of
from hjepa.data.training_images import lies_on_disk
from hjepa.errors import UserError
from hjepa.files import shown
from hjepa.randomness import generator

TOO_LONG = 0.2  # fraction of the time spent waiting above which something is said
SAMPLE = 8  # images whose decoding is timed
DISK_FRACTION = 0.5  # of the free disk space that a cache may take
EPOCHS_WORTH_IT = 1.5  # a cache is read from the second epoch on


class Decoding(NamedTuple):
    """What decoding costs, measured on a few images."""

    decode: float  # seconds per image
    rest: float  # seconds per image for crop and resize
    bytes_per_image: float


class WaitingForImages:
    """Looks at how long a run waits for images, and speaks once."""

    def __init__(self, config: Config, data: MicroBatchDataset) -> None:
        self.config, self.data = config, data
        self.lines, self.said = 0, False

    def notices(self, line: dict[str, Any], total_steps: int) -> list[str]:
        """Return what to say after a line of metrics.jsonl; begin a cache if it would help and is allowed."""
        self.lines += 1
        # The first line of a run includes the start of the workers.
        if self.said or self.lines < 2 or line["data_wait"] <= TOO_LONG:
            return []
        self.said = True
        waits = f"waiting for images takes {line['data_wait']:.0%} of the time"
        images_left = (total_steps - line["step"]) * self.config.optim.batch_size
        cached = self._cache(images_left / len(self.data.source))
        return [f"{waits}{cached}" if cached else f"{waits}: {self._advice()}"]

    def _cache(self, epochs_left: float) -> str:
        """Return the end of a sentence on the cache; nothing if there is no reason to speak of one."""
        images = self.data.images
        if not lies_on_disk(images.source):
            return ""
        if images.is_cached:
            return "" if epochs_left < EPOCHS_WORTH_IT else self._filling()
        cost = self._measure()
        if cost is None or cost.decode < cost.rest or epochs_left < EPOCHS_WORTH_IT:
            return ""
        size = cost.bytes_per_image * len(self.data.source)
        about = f"(about {size / 1e9:.1f} GB)" if size >= 1e9 else f"(about {size / 1e6:.0f} MB)"
        decoding = f", and decoding is {cost.decode * 1e3:.1f} of {(cost.decode + cost.rest) * 1e3:.1f} ms per image"
        if images.cache is None:
            return f"{decoding}: --resume with --data.cache on keeps decoded images {about}"
        room = free_space(images.root)
        if size > DISK_FRACTION * room:
            return (
                f"{decoding}: a cache of decoded images {about} has no room in {shown(images.root)} "
                f"({room / 1e9:.1f} GB free); name a folder with more, --data.cache FOLDER"
            )
        try:
            images.switch_on()
        except OSError:
            return f"{decoding}: {shown(images.root)} cannot be written; name a folder for a cache, --data.cache FOLDER"
        return (
            f"{decoding}: decoded images are kept in {shown(images.folder)} from now on {about}; --data.cache off "
            "turns this off"
        )

    def _filling(self) -> str:
        cache, images = self.data.images.cache, len(self.data.source)
        kept = 0 if cache is None else len(cache)
        return f": {kept:,} decoded images of {images:,} are in the cache" if kept < images else ""

    def _advice(self) -> str:
        """Return what would help besides a cache."""
        workers, cores = self.config.data.workers or 0, os.cpu_count() or 1
        if workers < cores:
            return f"try more loader processes, --data.workers {min(cores, max(2, 2 * workers))} (now {workers})"
        return (
            f"{cores} processors are too few for images of this size; store them smaller "
            f"({2 * max(self.config.image_size)} pixels on the shorter side are enough)"
        )

    def _measure(self) -> Decoding | None:
        """Time the decoding of a few images, and their crops; None if none can be read."""
        data, measured = self.data, []
        draws = generator(0, "waiting").random(DRAWS)
        for index in sample_of(len(data.source), SAMPLE, "waiting"):
            start = time.perf_counter()
            try:
                pixels = data.images.decoded(index)
            except UserError:
                continue
            decoded = time.perf_counter()
            data.augment(pixels, draws)
            measured.append((decoded - start, time.perf_counter() - decoded, pixels.nbytes))
        if not measured:
            return None
        decode, rest, sizes = zip(*measured, strict=True)
        return Decoding(median(decode), median(rest), sum(sizes) / len(sizes))


def free_space(folder: os.PathLike[str]) -> int:
    """Return the free bytes on the disk of a folder that need not exist yet."""
    path = Path(folder).absolute()
    there = next(place for place in (path, *path.parents) if place.is_dir())
    return shutil.disk_usage(there).free
