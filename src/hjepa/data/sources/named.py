"""Datasets that are opened by name: from this machine if present, otherwise downloaded by torchvision."""

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hjepa.data.sources.arrays import ArraySource
from hjepa.data.sources.npz import open_npz
from hjepa.errors import UserError
from hjepa.processes import is_main_process

FASHION_NAMES = "fashion-mnist, fashion-mnist:train, fashion-mnist:test"
FASHION_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# Debian's package dataset-fashion-mnist, a folder in the working directory, torchvision's download.
FASHION_FOLDERS = (
    Path("/usr/share/datasets/fashion-mnist"),
    Path("fashion-mnist"),
    Path("data/FashionMNIST/raw"),
)

# One .npz with train_images, train_labels, test_images and test_labels.
CIFAR10_FILES = (Path("cifar10.npz"), Path("data/cifar10.npz"))
# torchvision's root folders: the default here, and an archive unpacked in the working directory.
ROOTS = (Path("data"), Path())


class Published(NamedTuple):
    """A dataset that torchvision holds in one array."""

    kind: str  # of torchvision.datasets
    splits: dict[str, dict[str, object]]  # name -> arguments; the first is the default
    folder: str  # what torchvision leaves below its root


_TRAIN_OR_TEST: dict[str, dict[str, object]] = {"train": {"train": True}, "test": {"train": False}}
PUBLISHED = {
    "cifar10": Published("CIFAR10", _TRAIN_OR_TEST, "cifar-10-batches-py/data_batch_1"),
    "cifar100": Published("CIFAR100", _TRAIN_OR_TEST, "cifar-100-python/train"),
    "mnist": Published("MNIST", _TRAIN_OR_TEST, "MNIST/raw/train-images-idx3-ubyte*"),
    "kmnist": Published("KMNIST", _TRAIN_OR_TEST, "KMNIST/raw/train-images-idx3-ubyte*"),
    "stl10": Published(
        "STL10",
        {split: {"split": split} for split in ("unlabeled", "train", "test")},
        "stl10_binary/train_X.bin",
    ),
    "svhn": Published("SVHN", {split: {"split": split} for split in ("train", "test", "extra")}, "*_32x32.mat"),
}
NAMES = ("fashion-mnist", *PUBLISHED)


def fashion_mnist_is_here() -> bool:
    """Return whether Fashion-MNIST can be opened without a network."""
    return any(_either(folder / FASHION_FILES["train"][0]) for folder in FASHION_FOLDERS)


def cifar10_is_here() -> bool:
    """Return whether CIFAR-10 can be opened without a network."""
    return any(file.is_file() for file in CIFAR10_FILES) or _root_of(PUBLISHED["cifar10"]) is not None


def open_named(name: str, split: str) -> ArraySource:
    """Open one of ``NAMES``: from this machine if it is here, otherwise downloaded by torchvision into ``data``."""
    if name == "fashion-mnist":
        return open_fashion_mnist(split or "train")
    published = PUBLISHED[name]
    split = split or next(iter(published.splits))
    if split not in published.splits:
        raise UserError(f"{name} has no split {split!r}: use one of {', '.join(_names(name))}")
    if name == "cifar10":
        for file in CIFAR10_FILES:
            if file.is_file():
                return open_npz(file, split, name=f"cifar10:{split}")
    root = _root_of(published)
    if root is None:
        _refuse_to_download_twice(name)
    return _as_array(f"{name}:{split}", _of_torchvision(name, split, root))


def _of_torchvision(name: str, split: str, root: Path | None) -> Any:
    """Open a dataset of torchvision; without a folder it is downloaded. Raises UserError in one line."""
    from torchvision import datasets

    published = PUBLISHED[name]
    kind, arguments = getattr(datasets, published.kind), published.splits[split]
    try:
        return kind(root or "data", download=root is None, **arguments)
    except (OSError, RuntimeError) as error:
        if root is not None:
            raise UserError(
                f"{name}:{split} is incomplete or damaged in {root}, according to torchvision: move "
                f"{root / published.folder.split('/')[0]} away, so that it is downloaded again"
            ) from None
        own = "cifar10.npz (train_images, train_labels, test_images, test_labels) or " if name == "cifar10" else ""
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{name} was not found and could not be downloaded ({reason}): put {own}torchvision's "
            f"{published.folder.split('/')[0]} into ./data, or go online once"
        ) from None
    except ImportError as error:
        raise UserError(f"{name} needs a package that torchvision reads it with: pip install {error.name}") from None


def _as_array(name: str, found: Any) -> ArraySource:
    """Return a dataset that torchvision holds in memory, whatever the order of its axes."""
    images = np.asarray(found.data)
    if images.ndim == 4 and images.shape[1] == 3 and images.shape[-1] != 3:
        images = np.moveaxis(images, 1, -1)  # a view
    labels = np.asarray(found.targets if hasattr(found, "targets") else found.labels)
    known = len(labels) == len(images) and bool((labels >= 0).all())  # STL-10 calls "no label" -1
    return ArraySource(name, images, labels if known else None, classes=getattr(found, "classes", ()))


def _names(name: str) -> list[str]:
    return [name, *(f"{name}:{split}" for split in PUBLISHED[name].splits)]


def _root_of(published: Published) -> Path | None:
    return next((root for root in ROOTS if any(root.glob(published.folder))), None)


def _refuse_to_download_twice(name: str) -> None:
    """Raise UserError in every process of a launch but the first."""
    if not is_main_process():
        raise UserError(f"{name} was not found: run hjepa once in a single process to download it")


def open_fashion_mnist(split: str) -> ArraySource:
    """Open Fashion-MNIST (Xiao et al. 2017) from the Debian package, a local folder, or by download."""
    if split not in FASHION_FILES:
        raise UserError(f"fashion-mnist has no split {split!r}: use one of {FASHION_NAMES}")
    images, labels = FASHION_FILES[split]
    for folder in FASHION_FOLDERS:
        pixels, classes = _either(folder / images), _either(folder / labels)
        if pixels and classes:
            return ArraySource(f"fashion-mnist:{split}", _read_idx(pixels), _read_idx(classes))
    _refuse_to_download_twice("fashion-mnist")
    try:
        from torchvision.datasets import FashionMNIST

        downloaded = FashionMNIST("data", train=split == "train", download=True)
    except (OSError, RuntimeError, ImportError):
        raise UserError(
            "fashion-mnist was not found and could not be downloaded: install Debian's dataset-fashion-mnist, "
            "put its four files into ./fashion-mnist, or go online once so that torchvision can download it"
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
        raise UserError(f"{path} is damaged: download it again") from None
    axes = raw[3] if len(raw) > 4 else 0
    shape = struct.unpack(f">{axes}I", raw[4 : 4 + 4 * axes]) if axes else ()
    if not axes or raw[2] != 8 or len(raw) != 4 + 4 * axes + int(np.prod(shape)):
        raise UserError(f"{path} is damaged: download it again")
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)
