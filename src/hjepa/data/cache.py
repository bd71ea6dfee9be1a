"""Decoded images on disk: each is decoded once, and read from a memory map from then on.

A cache is a folder of files that are only appended to. Each process that decodes has two of its own: ``00001.bin`` has
pixels, ``00001.idx`` one row for each image. So any number of workers, ranks and runs can share a cache without locks,
and whatever is killed leaves whole rows. An image is found by the file's size, times and place on the disk, or else by
the content of the file: a copied or renamed file is known again, a changed one is decoded again.
"""

import hashlib
import mmap
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import __version__ as pillow_version
from PIL import features

from hjepa.data.encoded import ImageFile
from hjepa.data.pages import Page
from hjepa.data.reduce import Reduction

VERSION = 3  # raise it whenever a pixel of any decoded image changes
KEEP_FREE = 10**9  # bytes of a disk that are never filled
ASK_AGAIN = 10**8  # bytes written between two looks at the free space
_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
_ROW = struct.Struct("<16s16sIQIIIII")  # stamp, content, and the fields of a Place
_CHECKED = struct.Struct("<I")  # checksum of a row


class Place(NamedTuple):
    """Where the pixels of an image lie."""

    file: int
    offset: int
    height: int
    width: int
    channels: int
    kind: int  # of _TYPES
    checksum: int

    @property
    def num_values(self) -> int:
        """Return the number of values."""
        return self.height * self.width * self.channels


class DecodedCache:
    """Decoded images of one kind of reduction, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_stamp: dict[bytes, Place] = {}
        self._by_content: dict[bytes, Place] = {}
        self._read_to: dict[str, int] = {}  # how far each index was read
        self._maps: dict[int, mmap.mmap] = {}
        self._checked: set[tuple[int, int]] = set()  # pixels that this process wrote, or found as they were written
        self._writer: _Writer | None = None
        self._unasked, self._room = 0, True

    def __len__(self) -> int:
        """Return the number of images of different content."""
        self._read_news()
        return len(self._by_content)

    def get(self, path: ImageFile, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the pixels of a file; they are decoded and kept if they are not there."""
        stamp = _stamp(path)
        if stamp is None:
            return decode()  # which reports what is wrong
        place = self._by_stamp.get(stamp)
        if place is None:
            self._read_news()  # of other processes
            place = self._by_stamp.get(stamp)
        content = b""
        if place is None:
            content = _content(path)
            place = self._by_content.get(content)
            if place is not None:
                self._add_row(stamp, content, place)
        pixels = None if place is None else self._pixels(place)
        if pixels is None:
            content = content or _content(path)
            pixels = decode()
            if _stamp(path) == stamp:  # or else it changed meanwhile
                self._keep(stamp, content, pixels)
        return pixels

    def _keep(self, stamp: bytes, content: bytes, pixels: np.ndarray) -> None:
        if pixels.dtype not in _TYPES:
            return
        try:
            if not self._has_room(pixels.nbytes):
                return
            writer = self._own_writer()
            data = np.ascontiguousarray(pixels).tobytes()
            height, width, channels = pixels.shape
            kind = _TYPES.index(pixels.dtype)
            place = Place(writer.number, writer.append(data), height, width, channels, kind, zlib.crc32(data))
        except OSError:  # the disk is full, or gone: training does without
            return
        self._checked.add((place.file, place.offset))
        self._add_row(stamp, content, place)

    def _has_room(self, size: int) -> bool:
        """Return whether the disk keeps some free space; asked again after some megabytes."""
        self._unasked += size
        if self._unasked > ASK_AGAIN:
            self._unasked, self._room = 0, shutil.disk_usage(self.folder.parent).free > KEEP_FREE
        return self._room

    def _add_row(self, stamp: bytes, content: bytes, place: Place) -> None:
        self._by_stamp[stamp] = self._by_content[content] = place
        try:
            self._own_writer().add_row(_ROW.pack(stamp, content, *place))
        except OSError:
            return

    def _own_writer(self) -> "_Writer":
        """Return the files of this process; a forked worker does not write to those of its parent."""
        if self._writer is None or self._writer.process != os.getpid():
            self._writer = _Writer(self.folder)
        return self._writer

    def _read_news(self) -> None:
        """Read the rows that were added since the last look."""
        try:
            indices = [entry for entry in os.scandir(self.folder) if entry.name.endswith(".idx")]
        except OSError:
            return
        size = _ROW.size + _CHECKED.size
        for entry in indices:
            start = self._read_to.get(entry.name, 0)
            if entry.stat().st_size - start < size:
                continue
            with Path(entry.path).open("rb") as file:
                file.seek(start)
                rows = file.read()
            rows = rows[: len(rows) // size * size]
            self._read_to[entry.name] = start + len(rows)
            for first in range(0, len(rows), size):
                row, check = rows[first : first + _ROW.size], rows[first + _ROW.size : first + size]
                if zlib.crc32(row) == _CHECKED.unpack(check)[0]:
                    stamp, content, *fields = _ROW.unpack(row)
                    self._by_stamp[stamp] = self._by_content[content] = Place(*fields)

    def _pixels(self, place: Place) -> np.ndarray | None:
        """Return pixels [H, W, C] that lie in the memory map; None if they are damaged."""
        kind = _TYPES[place.kind] if place.kind < len(_TYPES) else _TYPES[0]
        end = place.offset + place.num_values * kind.itemsize
        mapped = self._maps.get(place.file)
        try:
            if mapped is None or len(mapped) < end:
                with (self.folder / f"{place.file:05}.bin").open("rb") as file:
                    mapped = self._maps[place.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            return None
        if len(mapped) < end:
            return None
        values = np.frombuffer(mapped, kind, place.num_values, place.offset)
        if (place.file, place.offset) not in self._checked:
            if zlib.crc32(memoryview(mapped)[place.offset : end]) != place.checksum:
                return None
            self._checked.add((place.file, place.offset))
        return values.reshape(place.height, place.width, place.channels)


class _Writer:
    """The two files of one process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.process, self.number = os.getpid(), 0
        while True:
            self.number += 1
            try:
                self._pixels: BinaryIO = (folder / f"{self.number:05}.bin").open("xb", buffering=0)
                break
            except FileExistsError:
                continue
        self._rows: BinaryIO = (folder / f"{self.number:05}.idx").open("xb", buffering=0)
        self._end = 0

    def __del__(self) -> None:
        for file in (getattr(self, "_pixels", None), getattr(self, "_rows", None)):
            if file is not None:
                file.close()

    def append(self, data: bytes) -> int:
        """Append pixels; return where they begin. Raises OSError, after which nothing of them counts."""
        start = self._end
        view = memoryview(data)
        while view:  # one call writes less than all if the disk is full
            written = self._pixels.write(view)
            self._end += written
            view = view[written:]
        return start

    def add_row(self, row: bytes) -> None:
        """Add a row; it was written after its pixels, so whoever finds it finds them."""
        self._rows.write(row + _CHECKED.pack(zlib.crc32(row)))


def cache_key(reduction: Reduction, channels: int) -> str:
    """Return the name of a cache's folder: everything that the pixels depend on beside the files."""
    decoders = [features.version(name) for name in ("libjpeg_turbo", "jpg", "webp", "libtiff", "avif", "jpg_2000")]
    # Whether one of these is installed decides how many bits are read.
    packages = [installed_version(name) for name in ("imagecodecs", "tifffile", "pillow-heif", "pillow-jxl-plugin")]
    parts = (VERSION, reduction, channels, pillow_version, *decoders, *packages)
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def installed_version(package: str) -> str | None:
    """Return the version of an optional package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _stamp(image: ImageFile) -> bytes | None:
    """Return what changes when a file is written to, moved to another disk or replaced; None if it is not there."""
    path = image.file if isinstance(image, Page) else image
    try:
        state = os.stat(path)  # noqa: PTH116  (each image of each step: a Path would cost as much again)
    except OSError:
        return None
    facts: tuple[int, ...] = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    facts += (image.number, image.directory) if isinstance(image, Page) else ()
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).digest()


def _content(path: ImageFile) -> bytes:
    """Return a digest of a file; of a page that of its place, for the file may be a stack of gigabytes."""
    if isinstance(path, Page):
        return _stamp(path) or bytes(16)
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError:
        return bytes(16)
