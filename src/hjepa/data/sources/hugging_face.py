"""Datasets of Hugging Face's library ``datasets``: from the hub if named, from a folder, or saved to the disk."""

import io
import re
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hjepa.data.encoded import EncodedImage
from hjepa.data.sources.files import FileSource
from hjepa.data.survey import sample_of
from hjepa.errors import UnreadableImage, UserError

SAMPLE = 256  # rows of which the images are part of the fingerprint
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")  # of a dataset of the hub
_MISSING = "hf:{} needs Hugging Face's datasets: pip install 'hjepa[hf]'"


class HuggingFaceImages:
    """The image column of a dataset, as files by number: their bytes, or the paths that the dataset names."""

    def __init__(self, name: str, rows: Any, column: str) -> None:
        self.name, self.rows, self.column = name, rows, column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> EncodedImage:
        return EncodedImage(f"{self.name}, row {index}", partial(self.open, index))

    def __iter__(self) -> Iterator[EncodedImage]:
        return (self[index] for index in range(len(self)))

    def open(self, index: int) -> BinaryIO:
        """Open the encoded image of a row; raises UnreadableImage if it has none."""
        value = self.rows[index][self.column]
        if value and value["bytes"] is not None:
            return io.BytesIO(value["bytes"])
        if value and value["path"]:
            return io.BytesIO(Path(value["path"]).read_bytes())
        raise UnreadableImage(
            f"{self.name}, row {index}: has no image in the column {self.column!r}; leave the row out"
        )


class HuggingFaceSource(FileSource):
    """A split of a dataset in Arrow files, which ``datasets`` maps into memory; its ClassLabel columns are labels."""

    def __init__(self, name: str, dataset: Any, wanted: int | None = None) -> None:
        from datasets import ClassLabel, Image, Value

        column = _image_column(name, dataset)
        rows = dataset.select_columns([column]).cast_column(column, Image(decode=False))
        super().__init__(name, HuggingFaceImages(name, rows, column), {}, wanted)
        self.unlabelled = "the dataset needs a column of type ClassLabel, or numbers in a column called label"
        kinds = {
            other: kind
            for other, kind in dataset.features.items()
            if isinstance(kind, ClassLabel) or (other == "label" and isinstance(kind, Value) and "int" in kind.dtype)
        }
        chosen = "label" if "label" in kinds else next(iter(kinds), None)
        if chosen is not None:
            numbers = np.asarray(dataset.select_columns([chosen]).with_format("numpy")[:][chosen])
            if numbers.dtype.kind in "iu" and numbers.min() >= 0:  # -1 means that there is no label
                self._labels = {"label": numbers.astype(np.int64)}
                self.classes = list(getattr(kinds[chosen], "names", None) or [])

    def names_and_sizes(self) -> Iterator[tuple[str, int]]:
        """Yield the checksum and size of the images of a sample: rows have no names, and the paths of caches change."""
        for index in sample_of(len(self), SAMPLE, "fingerprint"):
            try:
                content = self.paths[index].open("rb").read()
            except (UserError, OSError):  # a row without an image: training skips it as any other unreadable one
                yield "unreadable", -1
            else:
                yield f"{zlib.crc32(content):08x}", len(content)


def open_hugging_face(spec: str, wanted: int | None = None) -> HuggingFaceSource:
    """Open ``NAME``, ``NAME:split`` or a folder: made by ``save_to_disk``, or of Parquet, Arrow or image files.

    Only a NAME that is no folder here is looked for on the hub. Raises UserError in one line.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(_MISSING.format(spec)) from None
    name, split = _name_and_split(spec)
    folder = Path(name).expanduser()
    if not name or (not folder.exists() and not _NAME.fullmatch(name)):
        raise UserError(
            f"hf:{spec}: {name or 'nothing'} is neither a folder here nor a name of the hub: check the path"
        )
    from huggingface_hub.utils import logging

    datasets.disable_progress_bars()
    logging.set_verbosity_error()  # or else each attempt to reach the hub is reported
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(str(folder))
        else:
            loaded = datasets.load_dataset(str(folder) if folder.exists() else name)
    except Exception as error:  # noqa: BLE001  (the library, its hub and its formats raise exceptions of many kinds)
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        where = "" if folder.exists() else ", neither as a folder nor on the hub"
        raise UserError(f"hf:{spec} cannot be opened{where} ({reason}): check the name") from None
    return HuggingFaceSource(f"hf:{spec}", _one_split(spec, loaded, split), wanted)


def _name_and_split(spec: str) -> tuple[str, str | None]:
    head, colon, tail = spec.rpartition(":")
    return (head, tail) if colon and not Path(spec).exists() else (spec, None)


def _one_split(spec: str, loaded: Any, split: str | None) -> Any:
    if not hasattr(loaded, "keys"):  # a single split that was saved to the disk
        if split is not None:
            raise UserError(f"hf:{spec} has no split {split!r}: it has a single one; omit it")
        return loaded
    there = list(loaded)
    wanted = split or ("train" if "train" in there else there[0])
    if wanted not in there:
        name = spec.removesuffix(f":{split}")
        raise UserError(f"hf:{name} has no split {split!r}: it has {', '.join(f'hf:{name}:{one}' for one in there)}")
    return loaded[wanted]


def _image_column(name: str, dataset: Any) -> str:
    from datasets import Image

    if not len(dataset):
        raise UserError(f"{name} has no rows: choose another split")
    columns = [column for column, kind in dataset.features.items() if isinstance(kind, Image)]
    if not columns:
        kinds = ", ".join(dataset.features)
        raise UserError(
            f"{name} has no column of images ({kinds}): cast one with dataset.cast_column(NAME, datasets.Image())"
        )
    return "image" if "image" in columns else columns[0]
