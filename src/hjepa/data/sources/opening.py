"""Open the DATA argument as a source of images."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from hjepa.data.scenes import Scenes
from hjepa.data.sources.arrays import ArraySource, DatasetSource
from hjepa.data.sources.files import FolderSource, ListSource, image_files
from hjepa.data.sources.named import open_cifar10, open_fashion_mnist
from hjepa.data.sources.npz import open_npz
from hjepa.data.sources.protocol import ImageSource
from hjepa.errors import UserError


def open_source(data: Any, channels: int | None = None) -> ImageSource:
    """Open DATA: a folder, a .txt or .csv list, an .npz file, the name of a dataset, an array or a Dataset.

    ``channels`` is data.channels: numbers other than 1, 3 or 4 are accepted only if they are set there.
    Raises UserError in one line if there is nothing to train on.
    """
    if isinstance(data, str | os.PathLike):
        return _open_named(str(data), channels)
    if isinstance(data, np.ndarray):
        return ArraySource("array", data, channels=channels)
    if isinstance(data, ImageSource):
        return data
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return DatasetSource(data, channels)
    raise UserError(
        f"DATA is of type {type(data).__name__}: pass a folder, a list file, the name of a dataset, "
        "an array [n, H, W, C] or a Dataset with a length"
    )


def _open_named(spec: str, channels: int | None) -> ImageSource:
    name, _, split = spec.partition(":")
    if spec in ("scenes", "fashion-mnist", "cifar10"):
        _refuse_two_meanings(spec)
    if name == "scenes":
        return Scenes(split or "train", length=50_000 if split != "test" else 5_000)
    if name == "fashion-mnist":
        return open_fashion_mnist(split or "train")
    if name == "cifar10":
        return open_cifar10(split or "train")
    path = Path(spec).expanduser()
    if path.is_dir():
        return FolderSource(path, channels)
    if path.suffix.lower() in (".txt", ".csv") and path.is_file():
        return ListSource(path, channels)
    file, part = _npz_and_split(path)
    if file.suffix.lower() == ".npz" and file.is_file():
        return open_npz(file, part, channels=channels)
    if path.is_file():
        raise UserError(
            f"{spec} is a file: pass a folder of images, a .txt or .csv list of paths, or an .npz file of arrays"
        )
    raise UserError(
        f"{spec} is neither a folder nor a known dataset: check the path, or use cifar10, fashion-mnist or scenes"
    )


def _refuse_two_meanings(name: str) -> None:
    """Raise UserError if a folder of images has the name of a dataset; a dataset's own files are not images."""
    if Path(name).is_dir() and any(image_files(Path(name))):
        raise UserError(
            f"{name} is both a folder of images here and the name of a dataset: use ./{name} for the folder, "
            f"or {name}:train for the dataset"
        )


def _npz_and_split(path: Path) -> tuple[Path, str | None]:
    """Split ``FILE.npz:test`` into file and split; the file name itself may contain a colon."""
    head, colon, tail = str(path).rpartition(":")
    if colon and head.lower().endswith(".npz") and not path.is_file():
        return Path(head), tail
    return path, None
