"""Atomic file writes: a file is replaced as a whole or not at all; and file names that any text can hold."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically: after a crash, either the old or the new text is there."""
    write_atomically(path, lambda beside: beside.write_text(text))


def refuse_other_file(option: str, file: Path, head: str, command: str) -> None:
    """Raise UserError if a file is there that does not begin with ``head``: it is not one that the command wrote."""
    if file.exists() and (not file.is_file() or not file.read_bytes().startswith(head.encode())):
        raise UserError(f"{option} {shown(file)}: exists, and {command} did not write it; name another file")


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, flush it to the disk, then rename it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(beside)
        flush_to_disk(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """Read a safetensors file wherever it lies: its own reader refuses paths that are not UTF-8.

    Raises SafetensorError for a damaged file, OSError for one that cannot be read.
    """
    from safetensors.torch import load, load_file

    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return load(path.read_bytes())
    return load_file(path)


def flush_to_disk(path: Path) -> None:
    """Flush the content of a file or folder to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path for people and for text files, on one line.

    Bytes that are not UTF-8, line breaks and other control characters are written as ``\\xe9``.
    """
    text = os.fspath(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    plain = character.isprintable() or ord(character) > 127
    return character if plain else f"\\x{ord(character):02x}"
