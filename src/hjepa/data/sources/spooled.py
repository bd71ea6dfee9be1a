"""An iterable of images, which has no numbers: it is read once into a temporary file, from which any image can be read.

Training visits images in an order that is a function of the seed, and resumes in the middle of it; both need to find
image number n. So a stream is never passed on as it comes.
"""

import hashlib
import os
import shutil
import tempfile
import weakref
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hjepa.data.byte_ranges import RangedFile
from hjepa.data.sources.arrays import as_pixels, image_and_label
from hjepa.data.sources.protocol import refuse_channels
from hjepa.errors import UserError

RESERVE = 1 << 30  # bytes that stay free on the disk
_KINDS = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


class SpooledSource:
    """The images of an iterable in a temporary file, which exists as long as the source."""

    unlabelled = "yield (image, class number) pairs"

    def __init__(self, items: Iterable[Any], channels: int | None = None) -> None:
        self.name = type(items).__name__
        folder = tempfile.mkdtemp(prefix="hjepa-images-")
        weakref.finalize(self, _remove, folder, os.getpid())
        path = Path(folder) / "pixels"
        rows, labels, digest = array("q"), array("q"), hashlib.sha256()
        with path.open("wb") as file:
            for item in items:
                image, label = image_and_label(item)
                pixels = np.ascontiguousarray(as_pixels(image))
                digest.update(f"{pixels.shape}".encode())
                digest.update(pixels.data)
                rows.extend((file.tell(), _KINDS.index(pixels.dtype), *pixels.shape))
                if label is not None:
                    labels.append(label)
                file.write(pixels.data)
                if len(rows) % (5 * 256) == 0:
                    _refuse_full_disk(self.name, path, len(rows) // 5)
        self._rows = np.frombuffer(rows, dtype=np.int64).reshape(-1, 5)
        if not len(self._rows):
            raise UserError(f"the {self.name} passed as DATA yields no images: pass one with at least one image")
        self._file = RangedFile(path)
        self._digest = digest.hexdigest()[:16]
        self.channels = int(self._rows[:, 4].max()) if channels is None else channels
        refuse_channels(
            f"an image of the {self.name}", self._rows[0, 2:].tolist(), self[0].shape[-1], channels, "[H, W, C]"
        )
        complete = len(labels) == len(self._rows)
        self._labels = {"label": np.frombuffer(labels, dtype=np.int64).copy()} if complete else {}
        self.classes: list[str] = []

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> np.ndarray:
        offset, kind, *shape = self._rows[index].tolist()
        size = int(np.prod(shape)) * _KINDS[kind].itemsize
        return np.frombuffer(self._file.read(offset, size), dtype=_KINDS[kind]).reshape(shape)

    @property
    def deep_images(self) -> list[int]:
        """Return which images have more than 8 bits."""
        return np.flatnonzero(self._rows[:, 1]).tolist()

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Return the second entries of the pairs, if every item was one."""
        return self._labels

    def fingerprint(self) -> str:
        """Digest of all pixels."""
        return f"{len(self)}-{self._digest}"


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # and not a loader worker, which was forked
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_full_disk(name: str, path: Path, images: int) -> None:
    if shutil.disk_usage(path).free < RESERVE:
        raise UserError(
            f"the {name} passed as DATA has filled the temporary folder {path.parent.parent} after {images:,} images: "
            "set TMPDIR to a larger disk, or pass fewer images (itertools.islice)"
        )
