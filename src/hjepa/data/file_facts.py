"""What identifies the files of a dataset: names, sizes, and the content of as many as can be read at once."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from hjepa.data.survey import sample_of

MAX_FILES = 10_000  # whose content is looked at: all up to here, a random sample beyond
_DIGITS = 16  # of a digest
_BYTES = 4096  # at the start and at the end of a file


class FileFacts(NamedTuple):
    """Size and content of a file; a file that is gone has the size -1."""

    size: int
    content: str  # a digest of its first and last bytes; empty if they were not looked at


class Paths(Protocol):
    """Paths that are made when they are asked for."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Path]: ...


class FactTable:
    """Facts of very many files by number, in two arrays."""

    def __init__(self, facts: Iterable[FileFacts] = ()) -> None:
        sizes, contents = array("q"), bytearray()
        for each in facts:
            sizes.append(each.size)
            contents += each.content.encode().ljust(_DIGITS)
        self._sizes, self._contents = sizes, bytes(contents)

    @classmethod
    def of(cls, paths: Paths, known: Mapping[Path, FileFacts]) -> "FactTable":
        """Return the facts of files; those of files in ``known`` are taken from there."""
        looked_at = set(sample_of(len(paths), MAX_FILES, "content"))
        return cls(known.get(path) or _look_at(path, content=index in looked_at) for index, path in enumerate(paths))

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> FileFacts:
        content = self._contents[_DIGITS * index : _DIGITS * (index + 1)].decode().strip()
        return FileFacts(self._sizes[index], content)

    def __iter__(self) -> Iterator[FileFacts]:
        return (self[index] for index in range(len(self)))


def _look_at(path: Path, *, content: bool) -> FileFacts:
    try:
        size = path.stat().st_size
        if not content:
            return FileFacts(size, "")
        with path.open("rb") as file:
            digest = hashlib.blake2b(file.read(_BYTES), digest_size=_DIGITS // 2)
            file.seek(max(_BYTES, size - _BYTES))
            digest.update(file.read(_BYTES))
        return FileFacts(size, digest.hexdigest())
    except OSError:
        return FileFacts(-1, "")
