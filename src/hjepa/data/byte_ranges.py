"""Read ranges of a file from many processes and threads: without a position, so that nobody moves another's."""

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

from hjepa.errors import UnreadableImage, UserError
from hjepa.files import shown


class RangedFile:
    """A file of which ranges are read. It is opened once by each process that receives it, at its first reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes of a range; fewer at the end of the file."""
        found = os.pread(self._open(), size, offset)
        while 0 < len(found) < size and (more := os.pread(self._open(), size - len(found), offset + len(found))):
            found += more
        return found

    def window(self, name: str, offset: int, size: int) -> BinaryIO:
        """Return a range as a file of its own; raises UnreadableImage if the file ends before it."""
        if offset + size > os.fstat(self._open()).st_size:
            raise UnreadableImage(f"{shown(name)}: {shown(self.path.name)} is cut short here; copy it again")
        return io.BufferedReader(_Window(self, offset, size), 1 << 16)

    def _open(self) -> int:
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            except FileNotFoundError:
                raise UserError(f"{shown(self.path)} does not exist any more: put it back") from None
        return self._descriptor

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_descriptor": None}

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]


class _Window(io.RawIOBase):
    """A range of a file, with a position of its own."""

    def __init__(self, file: RangedFile, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"seek to {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._size - self._at))
        found = self._file.read(self._offset + self._at, size)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)
