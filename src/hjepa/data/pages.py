"""Pages of a TIFF and frames of an animation: how many a file has, and each as an image file of its own."""

import io
import os
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from PIL import Image

from hjepa.data.encoded import EncodedImage, ImageFile, held

_NO_IMAGE = 0x1 | 0x4  # bits of NewSubfileType: a smaller copy of another page, and a mask
_NEW_SUBFILE_TYPE = 254
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")  # a JPEG's second picture is a preview or the other eye's view (MPO)


class Page(EncodedImage):
    """A page of a TIFF, or a frame of an animation; pages that are not asked for are not read.

    A page of a TIFF opens as the same file with another directory at its beginning, so that every reader takes it for
    the first page. A frame is found by its number, and the frames before it are decoded on the way.
    """

    def __init__(self, file: ImageFile, number: int, directory: int = 0) -> None:
        super().__init__(f"{os.fspath(file)}, page {number + 1}", self._at_directory)
        self.file, self.number, self.directory = file, number, directory

    @property
    def frame(self) -> int:
        """Return the frame to go to after opening: 0 for a page of a TIFF, which is the first that its reader sees."""
        return 0 if self.directory else self.number

    def held(self) -> "Page":
        """Return the page of a file that is not read again for each look at it; on a disk it can be."""
        return Page(held(self.file), self.number, self.directory)

    def _at_directory(self) -> BinaryIO:
        file = self.file.open("rb")
        return io.BufferedReader(_AtDirectory(file, self.directory)) if self.directory else file


class _AtDirectory(io.RawIOBase):
    """A TIFF whose header points to another directory: page 7, say, comes first."""

    def __init__(self, file: BinaryIO, directory: int) -> None:
        self._file = file
        shape = _shape(file.read(8))
        if shape is None:
            raise OSError("not a TIFF file any more")
        self._start = shape.header
        self._pointer = struct.pack(shape.order + shape.pointer, directory)
        file.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        """Return the descriptor: libtiff reads by itself, and is told the directory beside it."""
        return self._file.fileno()

    def readinto(self, buffer: Any) -> int:
        at = self._file.tell()
        found = self._file.read(len(buffer))
        buffer[: len(found)] = found
        for place, value in enumerate(self._pointer, start=self._start - at):
            if 0 <= place < len(found):
                buffer[place] = value
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Shape(NamedTuple):
    """How numbers are written in a TIFF."""

    order: str  # "<" or ">"
    header: int  # where the header points to the first directory
    pointer: str  # types of struct: of an offset,
    entries: str  # and of the number of entries
    entry: int  # bytes of an entry


def _shape(start: bytes) -> _Shape | None:
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or len(start) < 8:
        return None
    (version,) = struct.unpack(order + "H", start[2:4])
    classic, big = _Shape(order, 4, "I", "H", 12), _Shape(order, 8, "Q", "Q", 20)
    return {42: classic, 43: big}.get(version)


def page_places(path: ImageFile) -> list[int]:
    """Return for each page of a TIFF the offset of its directory; for each frame of an animation 0.

    Smaller copies of a page (pyramids, thumbnails) and masks do not count. What cannot be read has one page.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
            if _shape(start) is not None:
                return _directories(file) or [0]
        if not _may_be_animated(start):
            return [0]
        with path.open("rb") as file, Image.open(file) as image:
            return [0] * max(1, getattr(image, "n_frames", 1)) if image.format in _ANIMATED else [0]
    except Exception:  # noqa: BLE001  (whoever reads the image says what is wrong with it)
        return [0]


def number_of_pages(path: ImageFile) -> int:
    """Return how many pages or frames a file has; a page has one."""
    return 1 if isinstance(path, Page) else len(page_places(path))


def _may_be_animated(start: bytes) -> bool:
    riff = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    return riff or start.startswith((b"GIF8", b"\x89PNG")) or start[4:12] == b"ftypavis"


def _directories(file: BinaryIO) -> list[int]:
    """Return the offsets of the directories of full pages; those before the first damaged one."""
    file.seek(0)
    shape = _shape(file.read(8))
    assert shape is not None
    file.seek(shape.header)
    found: list[int] = []
    for offset, kind in _chain(file, shape):
        if not found or not kind & _NO_IMAGE:  # whatever the first page is, it is what a reader shows
            found.append(offset)
    return found


def _chain(file: BinaryIO, shape: _Shape) -> Iterator[tuple[int, int]]:
    """Yield the offset and the NewSubfileType of one directory after the other; a chain that bites its tail ends."""
    seen: set[int] = set()
    pointer, count = struct.Struct(shape.order + shape.pointer), struct.Struct(shape.order + shape.entries)
    tag = struct.Struct(shape.order + "H")
    while len(raw := file.read(pointer.size)) == pointer.size:
        (offset,) = pointer.unpack(raw)
        if offset == 0 or offset in seen:
            return
        seen.add(offset)
        file.seek(offset)
        raw = file.read(count.size)
        if len(raw) < count.size:
            return
        entries = file.read(count.unpack(raw)[0] * shape.entry) if count.unpack(raw)[0] < 1 << 16 else b""
        if len(entries) < count.unpack(raw)[0] * shape.entry or not entries:
            return
        kind = 0
        for place in range(0, len(entries), shape.entry):
            (number,) = tag.unpack_from(entries, place)
            if number >= _NEW_SUBFILE_TYPE:  # entries are in ascending order
                if number == _NEW_SUBFILE_TYPE:
                    (kind,) = struct.unpack_from(shape.order + "I", entries, place + shape.entry - pointer.size)
                break
        yield offset, kind
        file.seek(offset + count.size + len(entries))
