"""Images in a NumPy .npz file, in the layout of MedMNIST: train_images, train_labels, val_..., test_..."""

import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from hjepa.data.sources.arrays import ArraySource
from hjepa.errors import UserError

SPLITS = ("train", "val", "test")


def open_npz(
    file: Path, split: str | None = None, *, name: str | None = None, channels: int | None = None
) -> ArraySource:
    """Open one split of an .npz file; without one the training split, or ``images`` if the file has no splits.

    Images are uint8 [n, H, W] or [n, H, W, C]; labels, if any, are one integer per image, as [n] or [n, 1]
    (MedMNIST, Yang et al. 2023); ``class_names`` are used if present. Raises UserError in one line if the file is
    damaged or contains something else.
    """
    try:
        with (
            file.open("rb") as opened,
            np.load(opened, allow_pickle=False) as arrays,
        ):  # numpy leaves a damaged one open
            images_name, labels_name = _names(file, list(arrays), split)
            images = arrays[images_name]
            labels = arrays.get(labels_name)
            classes = [str(name) for name in arrays["class_names"]] if "class_names" in arrays else []
    except UserError:
        raise
    except (BadZipFile, zlib.error, EOFError, ValueError, OSError):
        raise UserError(f"{file} cannot be read as an .npz file: save it again with numpy.savez") from None
    if labels is not None:
        labels = _one_per_image(file, labels_name, labels, len(images))
        if len(classes) <= int(labels.max(initial=-1)):
            classes = []
    shown = name or (f"{file}:{split}" if split else str(file))
    return ArraySource(shown, images, labels, classes=classes, channels=channels)


def _names(file: Path, held: list[str], split: str | None) -> tuple[str, str]:
    """Return the names of the images and of the labels of a split."""
    splits = [one for one in SPLITS if f"{one}_images" in held]
    if split is None:
        if splits:
            return f"{splits[0]}_images", f"{splits[0]}_labels"
        if "images" in held:
            return "images", "labels"
        raise UserError(
            f"{file} contains {', '.join(held) or 'nothing'}: expected train_images (and train_labels, val_images, "
            "test_images ...), or images (and labels)"
        )
    if split not in splits:
        there = ", ".join(f"{file}:{one}" for one in splits) or "no train_images, val_images or test_images"
        raise UserError(f"{file} has no split {split!r}: it has {there}")
    return f"{split}_images", f"{split}_labels"


def _one_per_image(file: Path, name: str, labels: np.ndarray, images: int) -> np.ndarray:
    """Return labels as int64 [n]; several labels per image (as in MedMNIST's ChestMNIST) are refused."""
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or len(flat) != images or not np.issubdtype(flat.dtype, np.integer):
        raise UserError(
            f"{file}: {name} is {labels.dtype} {list(labels.shape)} for {images} images: expected one integer per image"
        )
    return flat.astype(np.int64)
