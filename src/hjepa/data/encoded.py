"""An image file wherever it lies: on the disk, or within an archive, a shard or a table."""

import io
import os
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import BinaryIO


class EncodedImage:
    """An image file that is part of another file: its name, and how to open it; stands where a ``Path`` stands."""

    def __init__(self, name: str, opener: Callable[[], BinaryIO]) -> None:
        self._name, self._opener = name, opener

    def open(self, _mode: str = "rb") -> BinaryIO:
        """Open the file for reading; raises UnreadableImage if its bytes are damaged."""
        return self._opener()

    @property
    def suffix(self) -> str:
        """Return the ending of the name, as that of a path."""
        return PurePath(self._name).suffix

    def __fspath__(self) -> str:
        """Return a name for people, such as ``photos.zip/cat/1.jpg``; there is no such file on the disk."""
        return self._name

    def __str__(self) -> str:
        return self._name


ImageFile = Path | EncodedImage


def held(path: ImageFile) -> ImageFile:
    """Return a file that may be opened often: part of another file is kept in memory, so it is inflated only once."""
    if not isinstance(path, EncodedImage):
        return path
    with path.open() as file:
        content = file.read()
    return EncodedImage(os.fspath(path), lambda: io.BytesIO(content))
