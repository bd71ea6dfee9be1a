"""From a file to pixels: uint8 [H, W, C] with one channel for grey images and three for colour."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hjepa.errors import UnreadableImage, UserError

# What Pillow opens everywhere; other endings in a folder are not images to us.
ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
GREY_MODES = frozenset({"1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L"})


# What Pillow raises on files that are cut short, mislabelled or hostile.
_DAMAGE = (
    UnidentifiedImageError, OSError, EOFError, SyntaxError, ValueError, TypeError, KeyError, IndexError,
    struct.error, Image.DecompressionBombError,
)  # fmt: skip


def read_image(path: Path) -> np.ndarray:
    """Read an image with its EXIF orientation applied: uint8 [H, W, 1] if greyscale, [H, W, 3] otherwise.

    16-bit and float greyscale images are scaled to 8 bits by their own range; transparent images are composited on
    white. Raises UnreadableImage with the file's name if it cannot be decoded completely.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            image.load()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check the path") from None
    except _DAMAGE as error:
        raise UnreadableImage(f"{path}: cannot decode the image ({_reason(error)}); exclude or replace it") from None
    return pil_pixels(image)


def channels_of(path: Path) -> int:
    """Return 1 for a grey file and 3 for a colour file, from its header alone."""
    try:
        with Image.open(path) as file:
            return 1 if file.mode in GREY_MODES else 3
    except _DAMAGE:
        return 3  # reading it later reports what is wrong with it


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Convert [..., H, W, C] to ``channels``: greyscale is repeated, colour is converted to luminance.

    Luminance weights are those of ITU-R BT.601, as in Pillow's mode "L".
    """
    have = image.shape[-1]
    if have == channels:
        return image
    if have == 1:
        return np.repeat(image, channels, axis=-1)
    if channels == 1 and have == 3:
        weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
        return np.rint(image.astype(np.float32) @ weights)[..., None].astype(np.uint8)
    raise UserError(f"images have {have} channels, but data.channels = {channels}: use --data.channels {have}")


def pil_pixels(image: Image.Image) -> np.ndarray:
    """Return the pixels of a PIL image of any mode: uint8 [H, W, 1] if grey, [H, W, 3] otherwise."""
    if image.mode in ("I", "F", "I;16", "I;16B", "I;16L"):
        values = np.asarray(image, dtype=np.float64)
        finite = np.isfinite(values)
        low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
        values = np.where(finite, values, low)  # a hole in a measurement is drawn dark
        return np.rint((values - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)[..., None]
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., None]
    if image.mode == "LA" or image.mode == "RGBA" or "transparency" in image.info:
        grey = image.mode == "LA"
        rgba = image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.asarray(flat.convert("L"))[..., None] if grey else np.asarray(flat.convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _reason(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "not an image file" if isinstance(error, UnidentifiedImageError) else text
