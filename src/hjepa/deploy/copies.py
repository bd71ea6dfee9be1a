"""Copies of the user's own images, made to find out how similar copies are to an encoder."""

import io

import numpy as np
from PIL import Image

from hjepa.randomness import generator

KINDS = ("re-encoded", "resized", "cropped")


def make_copy(pixels: np.ndarray, kind: str, number: int) -> np.ndarray:
    """Return a copy of an image [H, W, C]; ``number`` decides on quality, size and place.

    re-encoded: JPEG of quality 50 to 95; resized: to 0.5 to 1.5 times its size, as JPEG of quality 90; cropped: 5 % of
    both sides are cut off, as JPEG of quality 90. Images that a JPEG cannot hold are cropped, whatever the kind.
    """
    random = generator(0, f"copy {kind}", number)
    height, width = pixels.shape[:2]
    if kind == "cropped" or not _fits_jpeg(pixels):
        kept = [max(1, round(0.95 * side)) for side in (height, width)]
        top, left = (int(random.integers(side - part + 1)) for side, part in zip((height, width), kept, strict=True))
        cut = pixels[top : top + kept[0], left : left + kept[1]]
        return _jpeg(Image.fromarray(_squeezed(cut)), 90) if _fits_jpeg(pixels) else cut
    image = Image.fromarray(_squeezed(pixels))
    if kind == "re-encoded":
        return _jpeg(image, int(random.integers(50, 96)))
    scale = random.uniform(0.5, 1.5)
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return _jpeg(image.resize(size, Image.Resampling.BICUBIC), 90)


def _fits_jpeg(pixels: np.ndarray) -> bool:
    return pixels.dtype == np.uint8 and pixels.shape[-1] in (1, 3)


def _squeezed(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _jpeg(image: Image.Image, quality: int) -> np.ndarray:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    found = np.asarray(Image.open(io.BytesIO(file.getvalue())))
    return found[..., None] if found.ndim == 2 else found
