"""Open the DATA argument as a source of images."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hjepa.data.endings import is_image
from hjepa.data.scenes import Scenes
from hjepa.data.sources.archives import ARCHIVES, open_archive, refuse_compressed_tar
from hjepa.data.sources.arrays import ArraySource, DatasetSource
from hjepa.data.sources.files import FileSource, FolderSource, image_files
from hjepa.data.sources.hugging_face import HuggingFaceSource, open_hugging_face
from hjepa.data.sources.lists import LISTS, ListSource
from hjepa.data.sources.named import NAMES, open_named
from hjepa.data.sources.npy import NpySource
from hjepa.data.sources.npz import open_npz
from hjepa.data.sources.paged import PagedSource, Pages, open_single_file, with_pages
from hjepa.data.sources.protocol import ImageSource
from hjepa.data.sources.shards import open_shards
from hjepa.data.sources.spooled import SpooledSource
from hjepa.errors import UserError


def open_source(data: Any, channels: int | None = None, pages: Pages = "first") -> ImageSource:
    """Open DATA: a folder, list, archive or array file, the name of a dataset, an array, a Dataset or an iterable.

    ``channels`` is data.channels: numbers other than 1, 3 or 4 are accepted only if they are set there.
    ``pages`` is data.pages.
    Raises UserError in one line if there is nothing to train on.
    """
    source = open_unread(data, channels, pages)
    if isinstance(source, FileSource):
        _ = source.channels  # read from the headers of the files, which may not fit together
    return source


def open_unread(data: Any, channels: int | None = None, pages: Pages = "first") -> ImageSource:
    """Open DATA without looking into its files but for their pages: for whoever reads all of them anyway."""
    source = _open(data, channels)
    return source if isinstance(source, PagedSource) else with_pages(source, pages)


def _open(data: Any, channels: int | None) -> ImageSource:
    if isinstance(data, str | os.PathLike):
        return _open_by_name(str(data), channels)
    if isinstance(data, np.ndarray):
        return ArraySource("array", data, channels=channels)
    if isinstance(data, ImageSource):
        return data
    if _is_hugging_face(data):
        return HuggingFaceSource("Dataset", data, channels)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not _is_stream(data):
        return DatasetSource(data, channels)
    if isinstance(data, Iterable):
        return SpooledSource(data, channels)
    raise UserError(
        f"DATA is of type {type(data).__name__}: pass a folder, a list file, the name of a dataset, "
        "an array [n, H, W, C], a Dataset, or an iterable of images"
    )


def _open_by_name(spec: str, channels: int | None) -> ImageSource:
    name, _, split = spec.partition(":")
    if spec == "scenes" or spec in NAMES:
        _refuse_two_meanings(spec)
    if name == "scenes":
        return Scenes(split or "train", length=50_000 if split != "test" else 5_000)
    if name in NAMES:
        return open_named(name, split)
    if name == "hf":
        return open_hugging_face(split, channels)
    if name == "wds":
        return open_shards(split, channels)
    path = Path(spec).expanduser()
    if path.is_dir():
        return FolderSource(path, channels)
    file, part = _file_and_part(path)
    ending = file.suffix.lower()
    if file.is_file():
        if ending == ".npz":
            return open_npz(file, part, channels=channels)
        if ending == ".npy":
            return NpySource(file, channels)
        if ending in LISTS:
            return ListSource(file, channels, column=part)
        if ending in ARCHIVES:
            return open_archive(file, channels)
        refuse_compressed_tar(file)
        if is_image(file):
            return open_single_file(file, channels)
        raise UserError(
            f"{spec} is a file: pass a folder of images, a .txt, .csv or .parquet list of paths, a .zip or .tar of "
            "images, a .npy or .npz file of arrays, or an image file of several pages"
        )
    if any(sign in path.name for sign in "*?["):
        raise UserError(
            f"{spec} is a pattern: pass the folder, {path.parent}, or a .txt file with the path of each image on a line"
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


def _file_and_part(path: Path) -> tuple[Path, str | None]:
    """Split ``FILE.npz:test`` or ``FILE.csv:column`` into file and part; the file name itself may contain a colon."""
    head, colon, tail = str(path).rpartition(":")
    if colon and head.lower().endswith((".npz", ".csv", ".parquet")) and not path.is_file():
        return Path(head), tail
    return path, None


def _is_hugging_face(data: Any) -> bool:
    """Return whether DATA is a map-style dataset of the library ``datasets`` with a column of images."""
    kind = type(data)
    if (
        kind.__module__.split(".")[0] != "datasets"
        or not hasattr(data, "select_columns")
        or not hasattr(data, "__len__")
    ):
        return False
    return any(type(feature).__name__ == "Image" for feature in (data.features or {}).values())


def _is_stream(data: Any) -> bool:
    """Return whether DATA is an IterableDataset of torch, which has a ``__getitem__`` that only raises."""
    return any(kind.__name__ == "IterableDataset" for kind in type(data).__mro__)
