"""Very many names in little memory, which the processes of a data loader share."""

import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np


class NameTable:
    """Names by number, held in two arrays: a name is made when it is asked for, and forgotten afterwards.

    A list of strings has an object for each name, and a forked loader worker that merely looks at one counts a
    reference in it, which copies the list's memory page by page. Two arrays stay shared.
    """

    def __init__(self, names: Iterable[str]) -> None:
        text, ends = bytearray(), array("q", [0])
        for name in names:
            text += os.fsencode(name)
            ends.append(len(text))
        self._text = np.frombuffer(text, dtype=np.uint8)
        self._ends = np.frombuffer(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return os.fsdecode(self._text[self._ends[index] : self._ends[index + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def in_order(self, order: np.ndarray) -> "NameTable":
        """Return the names in another order, or some of them."""
        return NameTable(self[index] for index in order.tolist())

    @property
    def nbytes(self) -> int:
        """Return the memory that the names take."""
        return self._text.nbytes + self._ends.nbytes


class PathTable:
    """Paths by number, below a folder; as a sequence of ``Path``."""

    def __init__(self, root: Path, names: NameTable) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Path:
        return self.root / self.names[index]

    def __iter__(self) -> Iterator[Path]:
        return (self.root / name for name in self.names)

    def insert(self, index: int, path: Path) -> None:
        """Put a path at a place, before the one that is there."""
        names = list(self.names)
        names.insert(index, os.fspath(path) if self.root == Path() else os.path.relpath(path, self.root))
        self.names = NameTable(names)
