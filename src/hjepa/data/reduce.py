"""Reading an image smaller than it is: large photographs have many more pixels than any crop of them keeps."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

JPEG_FACTORS = (8, 4, 2)  # by which a JPEG decoder can reduce, at a fraction of the time


@dataclass(frozen=True)
class Reduction:
    """How much smaller images may be read: every crop still has at least as many pixels as the encoder's input.

    A whole number divides both sides; which one is a function of the image's size and of these settings only, so an
    image is the same with a cache and without.
    """

    size: tuple[int, int]  # of the encoder's input, (H, W)
    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    how: Literal["crop", "pad"] = "crop"

    def factor(self, height: int, width: int) -> int:
        """Return the number by which the sides of an image are divided, however the camera was turned."""
        if min(height, width) < 1:
            return 1
        needed = max(self._scale(height, width), self._scale(width, height))
        return max(1, math.floor(1 / needed + 1e-9))

    def _scale(self, height: int, width: int) -> float:
        """Return how much smaller an image may be so that its smallest crop is as large as the input."""
        want_height, want_width = self.size
        if self.crop_scale is None:
            ratios = (want_height / height, want_width / width)
            return max(ratios) if self.how == "crop" else min(ratios)
        low, high = self.crop_ratio
        area = self.crop_scale[0] * height * width
        smallest = max(want_height * math.sqrt(high / area), want_width / math.sqrt(low * area))
        # The central crop of an image that is too long for any other.
        central = (min(height, width / low), min(width, height * high))
        return max(smallest, want_height / central[0], want_width / central[1])


def decode_smaller(file: Image.Image, factor: int) -> int:
    """Let the decoder of a JPEG do as much of the reduction as it can; return by how much."""
    done = next((each for each in JPEG_FACTORS if each <= factor), 1)
    if file.format not in ("JPEG", "MPO") or done == 1:
        return 1
    height, width = file.height, file.width
    return 1 if file.draft(None, (width // done, height // done)) is None else done


def reduce_image(image: Image.Image, factor: int) -> Image.Image:
    """Reduce a grey or colour image of 8 bits: the mean of factor x factor pixels, smaller at the right and bottom."""
    return image.reduce(factor) if factor > 1 else image


def reduce_pixels(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Reduce [H, W, C] of any type and number of bands in the same way; values that are no numbers do not count."""
    if factor == 1:
        return pixels
    if pixels.dtype == np.uint8 and pixels.shape[-1] in (1, 3):
        squeezed = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        reduced = np.asarray(reduce_image(Image.fromarray(squeezed), factor))
        return reduced[..., None] if pixels.shape[-1] == 1 else reduced
    if pixels.dtype.kind != "f":
        height, width = (np.minimum(factor, side - np.arange(0, side, factor)) for side in pixels.shape[:2])
        means = _block_sums(pixels, factor) / (height[:, None] * width)[..., None]
        return np.rint(means).astype(pixels.dtype)
    known = np.isfinite(pixels)
    with np.errstate(invalid="ignore"):  # a block without numbers has no mean
        means = _block_sums(np.where(known, pixels, 0), factor) / _block_sums(known, factor)
    return means.astype(np.float32)


def _block_sums(values: np.ndarray, factor: int) -> np.ndarray:
    """Return the sums of factor x factor values, smaller at the end of both axes: float64."""
    for axis in (0, 1):
        # One whole plane after the other: reduceat takes a hundred times as long for blocks that are this small.
        lines = np.moveaxis(values, axis, 0)
        sums = lines[::factor].astype(np.float64)
        for place in range(1, min(factor, len(lines))):
            further = lines[place::factor]
            sums[: len(further)] += further
        values = np.moveaxis(sums, 0, axis)
    return values
