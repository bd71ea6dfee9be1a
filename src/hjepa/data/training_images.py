"""The images of a source as training reads them: no larger than its crops need, and decoded once if a cache is on."""

import contextlib
import ctypes
import hashlib
import multiprocessing
import os
from pathlib import Path

import numpy as np

from hjepa.data.cache import DecodedCache, cache_key
from hjepa.data.reduce import Reduction
from hjepa.data.sources import FileSource, ImageSource
from hjepa.errors import UserError
from hjepa.files import shown


class TrainingImages:
    """Indexed images of a source. With a cache or without, they are the same to the last bit.

    ``cache`` is data.cache: auto, on, off, or the folder of a cache. With ``auto`` a cache that is there is used;
    whether to begin one is decided later, by ``switch_on``.
    """

    def __init__(self, source: ImageSource, reduction: Reduction, cache: str = "off") -> None:
        self.source, self.reduction, self.setting = source, reduction, cache
        self.cache: DecodedCache | None = None
        on_disk = lies_on_disk(source)
        if not on_disk and cache not in ("auto", "off"):
            raise UserError(
                f"data.cache = {cache}: only images in files of their own are cached, and {source.name} has none: "
                "omit it, or unpack the images into a folder"
            )
        if not on_disk or cache == "off":
            return
        self.root = default_root() if cache in ("auto", "on") else Path(cache).expanduser().absolute()
        self.folder = self.root / cache_key(reduction, source.channels)
        self.cache = DecodedCache(self.folder)
        # Sets of images share a cache; this file says that it is on for this one.
        self._mark = self.folder / f"{_digest_of_place(source)}.set"
        # Workers read it too, and training may switch it on after they have been started.
        self._on = multiprocessing.RawValue(ctypes.c_bool, False)
        if cache != "auto":
            self._begin()
        self.look_for_cache()

    @property
    def is_cached(self) -> bool:
        """Return whether the cache is on."""
        return self.cache is not None and bool(self._on.value)

    def switch_on(self) -> None:
        """Keep decoded images from now on, in all workers. Raises OSError if the folder cannot be made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._mark.write_text(f"{self.source.name}\n")
        self._on.value = True

    def look_for_cache(self) -> None:
        """Use a cache that is there: an earlier run may have left one, or rank 0 has begun one."""
        if self.cache is None:
            return
        if self._mark.is_file():
            self._on.value = True
        elif self._on.value and self.folder.is_dir():  # begun by an option: the next run finds it
            with contextlib.suppress(OSError):
                self._mark.write_text(f"{self.source.name}\n")

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return image ``index`` as [H, W, C]. Raises UnreadableImage if it cannot be decoded."""
        if self.cache is not None and self._on.value and isinstance(self.source, FileSource):
            return self.cache.get(self.source.paths[index], lambda: self.decoded(index))
        return self.decoded(index)

    def decoded(self, index: int) -> np.ndarray:
        """Return an image without looking into the cache."""
        reduced = getattr(self.source, "reduced", None)
        pixels: np.ndarray = self.source[index] if reduced is None else reduced(index, self.reduction)
        return pixels

    def _begin(self) -> None:
        """Switch the cache on. Nothing is written before the first image: this run may still be refused."""
        there = next(place for place in (self.folder, *self.folder.parents) if place.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise UserError(
                f"data.cache = {self.setting}: {shown(there)} is not a writable folder: use --data.cache off, or "
                "another folder"
            )
        self._on.value = True


def lies_on_disk(source: ImageSource) -> bool:
    """Return whether the images are files of their own, or pages of such files."""
    return isinstance(source, FileSource) and source.root is not None


def _digest_of_place(source: ImageSource) -> str:
    assert isinstance(source, FileSource) and source.root is not None
    return hashlib.sha256(os.fsencode(source.root.absolute())).hexdigest()[:16]


def default_root() -> Path:
    """Return the folder of all caches of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hjepa" / "decoded"
