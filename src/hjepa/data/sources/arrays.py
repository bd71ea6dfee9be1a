"""Images in memory: an array, or any map-style Dataset."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from hjepa.data.decode import pil_pixels
from hjepa.data.sources.protocol import number_classes, refuse_channels
from hjepa.data.tiff import native
from hjepa.errors import UserError

_IMAGE_NAMES = ("image", "img", "pixel_values", "jpg", "jpeg", "png", "webp")


class ArraySource:
    """Images in an array [n, H, W, C]: of uint8, or of any other numbers with one value range for all.

    uint16 stays uint16; floats and other integers are handed out as float32, as from a file of more than 8 bits.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        classes: Sequence[str] = (),
        channels: int | None = None,
    ) -> None:
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.dtype.kind not in "uif" or not images.size:
            raise UserError(
                f"an array of images must be numbers [n, H, W, C], uint8 as a rule, got {images.dtype} "
                f"{list(images.shape)}: move the channels to the last axis"
            )
        refuse_channels("an array of images", images.shape, images.shape[-1], channels, "[n, H, W, C]")
        self.name, self.images, self.channels = name, images, images.shape[-1]
        self._labels = {} if labels is None else {"label": np.asarray(labels, dtype=np.int64)}
        self.classes = list(classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return native(self.images[index])

    def batch(self, indices: Sequence[int]) -> np.ndarray:
        """Return uint8, uint16 or float32 [B, H, W, C]."""
        return native(self.images[np.asarray(indices)])

    @property
    def deep_images(self) -> Sequence[int]:
        """Return which images have more than 8 bits: all or none."""
        return range(0 if self.images.dtype == np.uint8 else len(self))

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Return the labels given with the array."""
        return self._labels

    def fingerprint(self) -> str:
        """Digest of shape and pixels."""
        digest = hashlib.sha256()
        for start in range(0, len(self), 1024):  # in parts: images may be a view, of which a copy is made
            digest.update(np.ascontiguousarray(self.images[start : start + 1024]).data)
        return f"{len(self)}-{digest.hexdigest()[:16]}"


class DatasetSource:
    """Any map-style Dataset of images: PIL images, arrays or tensors, alone or first in a tuple."""

    unlabelled = "add an attribute .targets with the class of each image to the Dataset"

    def __init__(self, dataset: Any, channels: int | None = None) -> None:
        if not len(dataset):
            raise UserError(f"the {type(dataset).__name__} passed as DATA is empty: pass one with at least one image")
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
        return image_and_label(self.dataset[index])[0]

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Return the dataset's ``targets``, if there are any; read on demand, since training does not need them."""
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


def image_and_label(item: Any) -> tuple[Any, int | None]:
    """Take apart an image, a tuple that begins with one, or a dict that has one, as of datasets and webdataset."""
    if isinstance(item, dict):
        names = [name for name in _IMAGE_NAMES if name in item]
        if not names:
            raise UserError(f"DATA returns dicts with {', '.join(map(str, item))}: name the image 'image'")
        return item[names[0]], _as_class(item.get("label", item.get("cls")))
    if isinstance(item, tuple | list):
        return item[0], _as_class(item[1]) if len(item) > 1 else None
    return item, None


def _as_class(value: Any) -> int | None:
    if isinstance(value, int | np.integer) or (hasattr(value, "numel") and value.numel() == 1):
        return int(value)
    return None


def as_pixels(item: Any) -> np.ndarray:
    """Turn a PIL image, an array [H, W(, C)] or a tensor [C, H, W] into [H, W, C]: uint8, or as deep as it is."""
    if hasattr(item, "convert"):  # a PIL image, which may have more than 8 bits
        return pil_pixels(item)
    if hasattr(item, "detach"):  # a tensor, channels first
        pixels = item.detach().cpu().numpy()
        pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels
    else:
        pixels = np.asarray(item)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3:
        raise UserError(f"the Dataset returned an image of shape {list(pixels.shape)}: return 2 or 3 axes")
    if pixels.dtype == np.uint16:
        return pixels
    if np.issubdtype(pixels.dtype, np.floating):
        if not (pixels.min() >= 0.0 and pixels.max() <= 1.0):  # so that NaN is refused too
            raise UserError(
                f"the Dataset returned floats from {pixels.min():.3g} to {pixels.max():.3g}: return uint8, or "
                "floats in 0..1 (hjepa normalises images itself)"
            )
        pixels = np.rint(pixels * 255.0)
    elif pixels.dtype != np.uint8 and (pixels.min() < 0 or pixels.max() > 255):
        raise UserError(
            f"the Dataset returned {pixels.dtype} from {pixels.min()} to {pixels.max()}: scale it to uint8, 0..255"
        )
    return pixels.astype(np.uint8)


def _as_classes(name: str, targets: Any, images: int) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return class names (none if classes are numbers already) and each image's class, from a Dataset's targets."""
    try:
        values = np.asarray(targets)
    except ValueError:  # entries of different lengths
        values = np.empty(0, dtype=object)
    if values.ndim != 1 or values.dtype.kind not in "biufUS":
        raise UserError(f"{name}.targets does not hold one class per image: provide {images} class numbers or names")
    if len(values) != images:
        raise UserError(f"{name}.targets has {len(values)} entries for {images} images: provide one class per image")
    if values.dtype.kind in "US":
        return number_classes(values.astype(str).tolist())
    if values.dtype.kind == "f" and (broken := values[~(np.mod(values, 1) == 0)]).size:
        raise UserError(f"{name}.targets contains {broken[0]:g}, which is not a class: use integers or names")
    return [], {"label": values.astype(np.int64)}
