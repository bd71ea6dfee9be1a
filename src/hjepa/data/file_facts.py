"""What identifies the files of a dataset: names, sizes, and the content of as many as can be read at once."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hjepa.data.survey import sample_of

MAX_FILES = 10_000  # whose content is looked at: all up to here, a random sample beyond
_BYTES = 4096  # at the start and at the end of a file


class FileFacts(NamedTuple):
    """Size and content of a file; a file that is gone has the size -1."""

    size: int
    content: str  # a digest of its first and last bytes; empty if they were not looked at


def facts_of(paths: Sequence[Path], known: Mapping[Path, FileFacts]) -> list[FileFacts]:
    """Return the facts of files; those of files in ``known`` are taken from there."""
    looked_at = set(sample_of(len(paths), MAX_FILES, "content"))
    return [known.get(path) or _look_at(path, content=index in looked_at) for index, path in enumerate(paths)]


def _look_at(path: Path, *, content: bool) -> FileFacts:
    try:
        size = path.stat().st_size
        if not content:
            return FileFacts(size, "")
        with path.open("rb") as file:
            digest = hashlib.blake2b(file.read(_BYTES), digest_size=8)
            file.seek(max(_BYTES, size - _BYTES))
            digest.update(file.read(_BYTES))
        return FileFacts(size, digest.hexdigest())
    except OSError:
        return FileFacts(-1, "")
