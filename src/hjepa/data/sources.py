"""What DATA may be, and how it becomes numbered images."""

import csv
import gzip
import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from hjepa.data.decode import ENDINGS, channels_of, pil_pixels, read_image
from hjepa.data.scenes import Scenes
from hjepa.errors import UserError

FASHION_NAMES = "fashion-mnist, fashion-mnist:train, fashion-mnist:test"
FASHION_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# Debian's package dataset-fashion-mnist, a folder beside the user, what torchvision left behind.
FASHION_FOLDERS = (
    Path("/usr/share/datasets/fashion-mnist"),
    Path("fashion-mnist"),
    Path("data/FashionMNIST/raw"),
)


@runtime_checkable
class ImageSource(Protocol):
    """Numbered images; ``labels`` maps a label name to int64 [n] and is empty when there are none."""

    name: str
    channels: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray:
        """Return image ``index`` as uint8 [H, W, C]."""
        ...

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Return what is known about each image."""
        ...

    def fingerprint(self) -> str:
        """Return a string that changes when the images or their order change."""
        ...


def open_source(data: Any, channels: int | None = None) -> ImageSource:
    """Open DATA: a folder, a .txt or .csv list, ``scenes``, ``fashion-mnist``, an array or a Dataset.

    ``channels`` is what the settings say (data.channels): other than 1, 3 or 4 only if they say so.
    Raises UserError in one line when there is nothing to train on.
    """
    if isinstance(data, str | os.PathLike):
        return _open_named(str(data))
    if isinstance(data, np.ndarray):
        return ArraySource("array", data, channels=channels)
    if isinstance(data, ImageSource):
        return data
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return DatasetSource(data, channels)
    raise UserError(
        f"DATA is a {type(data).__name__}: pass a folder, a list file, a data set's name, "
        "an array [n, H, W, C] or a Dataset with a length"
    )


def _open_named(spec: str) -> ImageSource:
    name, _, split = spec.partition(":")
    if name == "scenes":
        return Scenes(split or "train", length=50_000 if split != "test" else 5_000)
    if name == "fashion-mnist":
        return open_fashion_mnist(split or "train")
    path = Path(spec).expanduser()
    if path.is_dir():
        return FolderSource(path)
    if path.suffix.lower() in (".txt", ".csv") and path.is_file():
        return ListSource(path)
    if path.is_file():
        raise UserError(f"{spec} is a file: pass a folder of images, or a .txt or .csv list of paths")
    raise UserError(f"{spec} is neither a folder nor a known data set: check the path, or use scenes or fashion-mnist")


USUAL_CHANNELS = (1, 3, 4)  # grey, colour, colour with a fourth channel


def refuse_channels(what: str, shape: Sequence[int], have: int, wanted: int | None, expected: str) -> None:
    """Raise UserError if an axis that is no channels has been taken for them: training on it would be nonsense."""
    if have not in (*USUAL_CHANNELS, wanted):
        raise UserError(
            f"{what} of shape {list(shape)} has {have} channels: expected {expected} with C = 1, 3 or 4, "
            f"move the axes, or set --data.channels {have} if it is meant"
        )


class FileSource:
    """Images in files, read when asked for. Grey stays grey: one channel if every file has one.

    ``unlabelled`` says, if there are no labels, how there would be some.
    """

    unlabelled = "for instance one folder per class"

    def __init__(self, name: str, paths: Sequence[Path], root: Path, labels: dict[str, np.ndarray]) -> None:
        self.name, self.paths, self._root, self._labels = name, list(paths), root, labels
        self.classes: list[str] = []
        sampled = self.paths[:: max(1, len(self.paths) // 64)]
        self.channels = max(channels_of(path) for path in sampled)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index])

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Return the class folders as labels, if there are any."""
        return self._labels

    def fingerprint(self) -> str:
        """Digest of every path and file size."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(f"{os.path.relpath(path, self._root)}\0{path.stat().st_size}\n".encode())
        return f"{len(self)}-{digest.hexdigest()[:16]}"


class FolderSource(FileSource):
    """All images below a folder, in the order of their paths; hidden files are left out.

    If every image lies in a subfolder, the first folder of its path is its label.
    """

    def __init__(self, root: Path) -> None:
        paths = sorted(_image_files(root))
        if not paths:
            raise UserError(f"{root} holds no images: looked in all its subfolders for {', '.join(sorted(ENDINGS))}")
        parts = [path.relative_to(root).parts for path in paths]
        classes, labels = _number([p[0] if len(p) > 1 else None for p in parts])
        super().__init__(str(root), paths, root, labels)
        self.classes = classes
        bare = [path for path, names in zip(paths, parts, strict=True) if len(names) == 1]
        if 0 < len(bare) < len(paths):
            self.unlabelled = f"{bare[0]} lies in no class folder, the others do: move it into one"


class ListSource(FileSource):
    """Images named in a .txt file (a path a line) or a .csv file (columns ``path`` and maybe ``label``).

    Relative paths are relative to the list's own folder.
    """

    def __init__(self, file: Path) -> None:
        try:
            with file.open(newline="", encoding="utf-8-sig") as lines:
                rows = _csv_rows(file, lines) if file.suffix.lower() == ".csv" else _text_rows(lines)
        except (UnicodeDecodeError, csv.Error):
            raise UserError(f"{file} is not a text file in UTF-8: save it as UTF-8") from None
        if not rows:
            raise UserError(f"{file} names no images: write one path a line")
        paths = [file.parent / Path(path).expanduser() for path, _ in rows]
        for path in paths:
            if not path.is_file():
                raise UserError(f"{file} names {path}, which does not exist: correct the list")
        names = [label for _, label in rows]
        classes, labels = _number(names)
        super().__init__(str(file), paths, file.parent, labels)
        self.classes = classes
        if any(names) and not all(names):
            self.unlabelled = f"line {_line_of_first_blank(names)} has no label, others do: fill it in"


class ArraySource:
    """Images held in memory as uint8 [n, H, W, C]."""

    def __init__(
        self, name: str, images: np.ndarray, labels: np.ndarray | None = None, *, channels: int | None = None
    ) -> None:
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
            raise UserError(
                f"an array of images is uint8 [n, H, W, C], got {images.dtype} {list(images.shape)}: "
                "scale it to 0..255 and move the channels last"
            )
        refuse_channels("an array of images", images.shape, images.shape[-1], channels, "[n, H, W, C]")
        self.name, self.images, self.channels = name, images, images.shape[-1]
        self._labels = {} if labels is None else {"label": np.asarray(labels, dtype=np.int64)}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index]

    def batch(self, indices: Sequence[int]) -> np.ndarray:
        """Return uint8 [B, H, W, C]."""
        return self.images[np.asarray(indices)]

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Return the labels given with the array."""
        return self._labels

    def fingerprint(self) -> str:
        """Digest of shape and pixels."""
        return f"{len(self)}-{hashlib.sha256(self.images.tobytes()).hexdigest()[:16]}"


class DatasetSource:
    """Any map-style Dataset of images: PIL images, arrays or tensors, alone or first in a tuple."""

    unlabelled = "give the Dataset an attribute .targets with the class of each image"

    def __init__(self, dataset: Any, channels: int | None = None) -> None:
        if not len(dataset):
            raise UserError(f"the {type(dataset).__name__} given as DATA is empty")
        self.name, self.dataset = type(dataset).__name__, dataset
        self.channels = self[0].shape[-1]
        first = self._image(0)
        expected = "[C, H, W]" if hasattr(first, "detach") else "[H, W, C]"
        refuse_channels(f"an image of the {self.name}", getattr(first, "shape", ()), self.channels, channels, expected)
        self.classes: list[str] = []
        self._labels: dict[str, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> np.ndarray:
        return as_pixels(self._image(index))

    def _image(self, index: int) -> Any:
        item = self.dataset[index]
        return item[0] if isinstance(item, tuple | list) else item

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Return the data set's ``targets``, if it has any; read when asked for, since training needs none."""
        if self._labels is None:
            targets = getattr(self.dataset, "targets", None)
            self.classes, self._labels = ([], {}) if targets is None else _as_classes(self.name, targets, len(self))
        return self._labels

    def fingerprint(self) -> str:
        """Digest of the length and of up to 16 images spread over the set."""
        digest = hashlib.sha256()
        for index in range(0, len(self), max(1, len(self) // 16)):
            digest.update(np.ascontiguousarray(self[index]).tobytes())
        return f"{len(self)}-{digest.hexdigest()[:16]}"


def fashion_mnist_is_here() -> bool:
    """Return whether Fashion-MNIST can be opened without a network."""
    return any(_either(folder / FASHION_FILES["train"][0]) for folder in FASHION_FOLDERS)


def as_pixels(item: Any) -> np.ndarray:
    """Turn a PIL image, an array [H, W(, C)] or a tensor [C, H, W] into uint8 [H, W, C]."""
    if hasattr(item, "convert"):  # a PIL image
        pixels = pil_pixels(item)
    elif hasattr(item, "detach"):  # a tensor, channels first
        pixels = item.detach().cpu().numpy()
        pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels
    else:
        pixels = np.asarray(item)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3:
        raise UserError(f"an image has 2 or 3 axes, the Dataset gave one of shape {list(pixels.shape)}")
    if np.issubdtype(pixels.dtype, np.floating):
        if not (pixels.min() >= 0.0 and pixels.max() <= 1.0):  # so that NaN is refused too
            raise UserError(
                f"the Dataset gave floats from {pixels.min():.3g} to {pixels.max():.3g}: give uint8, or "
                "floats in 0..1 (leave normalisation to hjepa)"
            )
        pixels = np.rint(pixels * 255.0)
    elif pixels.dtype != np.uint8 and (pixels.min() < 0 or pixels.max() > 255):
        raise UserError(
            f"the Dataset gave {pixels.dtype} from {pixels.min()} to {pixels.max()}: scale it to uint8, 0..255"
        )
    return pixels.astype(np.uint8)


def open_fashion_mnist(split: str) -> ArraySource:
    """Open Fashion-MNIST (Xiao et al. 2017) from the Debian package, a local folder, or by download."""
    if split not in FASHION_FILES:
        raise UserError(f"fashion-mnist has no split {split!r}: use one of {FASHION_NAMES}")
    images, labels = FASHION_FILES[split]
    for folder in FASHION_FOLDERS:
        pixels, classes = _either(folder / images), _either(folder / labels)
        if pixels and classes:
            return ArraySource(f"fashion-mnist:{split}", _read_idx(pixels), _read_idx(classes))
    if os.environ.get("RANK", "0") != "0":
        raise UserError("fashion-mnist is not here: run hjepa once in a single process, so that one fetches it")
    try:
        from torchvision.datasets import FashionMNIST

        downloaded = FashionMNIST("data", train=split == "train", download=True)
    except (OSError, RuntimeError, ImportError):
        raise UserError(
            "fashion-mnist is not here and could not be downloaded: install Debian's dataset-fashion-mnist, "
            "or put its four files into ./fashion-mnist, or go online once so that torchvision can fetch it"
        ) from None
    return ArraySource(f"fashion-mnist:{split}", downloaded.data.numpy(), downloaded.targets.numpy())


def _either(path: Path) -> Path | None:
    """Return the file, or its gzipped twin, whichever exists."""
    return next((p for p in (path, path.with_name(path.name + ".gz")) if p.is_file()), None)


def _read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes (format: yann.lecun.com/exdb/mnist)."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            raw = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path} is damaged: delete it and get it again") from None
    axes = raw[3] if len(raw) > 4 else 0
    shape = struct.unpack(f">{axes}I", raw[4 : 4 + 4 * axes]) if axes else ()
    if not axes or raw[2] != 8 or len(raw) != 4 + 4 * axes + int(np.prod(shape)):
        raise UserError(f"{path} is damaged: delete it and get it again")
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)


def _image_files(root: Path) -> Iterable[Path]:
    seen: set[str] = set()  # real paths: a link may lead back up
    for folder, subfolders, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in ENDINGS and path.is_file():
                yield path


def _text_rows(lines: Iterable[str]) -> list[tuple[str, str | None]]:
    stripped = (line.strip() for line in lines)
    return [(line, None) for line in stripped if line and not line.startswith("#")]


def _as_classes(name: str, targets: Any, images: int) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return class names (none if the classes are numbers already) and each image's class, from a Dataset's targets."""
    try:
        values = np.asarray(targets)
    except ValueError:  # entries of different lengths
        values = np.empty(0, dtype=object)
    if values.ndim != 1 or values.dtype.kind not in "biufUS":
        raise UserError(f"{name}.targets is not one class for each image: give {images} class numbers or names")
    if len(values) != images:
        raise UserError(f"{name}.targets has {len(values)} entries for {images} images: give one class for each image")
    if values.dtype.kind in "US":
        return _number(values.astype(str).tolist())
    if values.dtype.kind == "f" and (broken := values[~(np.mod(values, 1) == 0)]).size:
        raise UserError(f"{name}.targets has {broken[0]:g}, which is no class: give whole numbers or names")
    return [], {"label": values.astype(np.int64)}


def _number(names: list[str | None]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the class names in order, and each image's class as a number; nothing if one has no class."""
    if not all(names):
        return [], {}
    classes, numbers = np.unique(np.array(names), return_inverse=True)
    return classes.tolist(), {"label": numbers.astype(np.int64)}


def renumber_classes(train: ImageSource, test: ImageSource) -> None:
    """Give the test images the training set's class numbers: each source has numbered its own classes.

    Labels that are numbers from the start (an array, a Dataset, fashion-mnist) are their own names, so a
    list with the labels 3 and 7 fits them. Raises UserError if the test set has a class that the training
    set does not know.
    """
    if "label" not in train.labels or "label" not in test.labels:
        return  # other kinds of labels, or none: the evaluation says so
    known, asked = _class_names(train), _class_names(test)
    if known == asked:
        return
    numbers = {name: number for number, name in known.items()}
    if strange := [name for name in asked.values() if name not in numbers]:
        raise UserError(
            f"{test.name} has the class {strange[0]!r}, which {train.name} does not have: "
            f"its classes are {', '.join(list(numbers)[:10])}"
        )
    test.labels["label"] = np.array([numbers[asked[own]] for own in test.labels["label"].tolist()], dtype=np.int64)


def fingerprint_with_labels(source: ImageSource) -> str:
    """Return a string that changes when the images, their order or their labels change."""
    digest = hashlib.sha256(source.fingerprint().encode())
    for name, numbers in sorted(source.labels.items()):
        digest.update(name.encode() + np.ascontiguousarray(numbers).tobytes())
    return digest.hexdigest()[:16]


def _class_names(source: ImageSource) -> dict[int, str]:
    """Return the name of each class number that occurs."""
    names = getattr(source, "classes", None)
    return {int(n): names[n] if names else str(n) for n in np.unique(source.labels["label"])}


def _csv_rows(file: Path, lines: Iterable[str]) -> list[tuple[str, str | None]]:
    reader = csv.DictReader(lines)
    if "path" not in (reader.fieldnames or ()):
        raise UserError(f"{file} has no column 'path': its first line must name the columns path and, if any, label")
    rows = [(row["path"], row.get("label")) for row in reader]
    if not all(path for path, _ in rows):
        raise UserError(f"{file}, line {_line_of_first_blank([path for path, _ in rows])}: has no path")
    return rows


def _line_of_first_blank(cells: Sequence[str | None]) -> int:
    """Return the line of a .csv file, which begins with its header as line 1."""
    return 2 + [not cell for cell in cells].index(True)
