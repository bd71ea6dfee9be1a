"""Datasets that are opened by name: from this machine if present, otherwise downloaded by torchvision."""

import gzip
import struct
import zlib
from pathlib import Path

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

CIFAR10_NAMES = "cifar10, cifar10:train, cifar10:test"
# One .npz with train_images, train_labels, test_images and test_labels.
CIFAR10_FILES = (Path("cifar10.npz"), Path("data/cifar10.npz"))
# torchvision's root folders: the default here, and an archive unpacked in the working directory.
CIFAR10_ROOTS = (Path("data"), Path())


def fashion_mnist_is_here() -> bool:
    """Return whether Fashion-MNIST can be opened without a network."""
    return any(_either(folder / FASHION_FILES["train"][0]) for folder in FASHION_FOLDERS)


def cifar10_is_here() -> bool:
    """Return whether CIFAR-10 can be opened without a network."""
    return any(file.is_file() for file in CIFAR10_FILES) or any(map(_has_cifar10, CIFAR10_ROOTS))


def open_cifar10(split: str) -> ArraySource:
    """Open CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 colour photographs of 32 x 32 pixels in ten classes.

    Looks for ``cifar10.npz`` here and in ``data``, then for torchvision's folder, then downloads it with torchvision.
    """
    if split not in ("train", "test"):
        raise UserError(f"cifar10 has no split {split!r}: use one of {CIFAR10_NAMES}")
    for file in CIFAR10_FILES:
        if file.is_file():
            return open_npz(file, split, name=f"cifar10:{split}")
    root = next(filter(_has_cifar10, CIFAR10_ROOTS), None)
    if root is None:
        _refuse_to_download_twice("cifar10")
    from torchvision.datasets import CIFAR10

    try:
        found = CIFAR10(root or "data", train=split == "train", download=root is None)
    except (OSError, RuntimeError):
        raise UserError(
            "cifar10 was not found and could not be downloaded: put cifar10.npz (train_images, train_labels, "
            "test_images, test_labels) or torchvision's cifar-10-batches-py into ./data, or go online once"
        ) from None
    return ArraySource(f"cifar10:{split}", found.data, np.asarray(found.targets), classes=found.classes)


def _has_cifar10(root: Path) -> bool:
    return (root / "cifar-10-batches-py" / "data_batch_1").is_file()


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
