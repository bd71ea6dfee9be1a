"""Resize, crop and flip: from a source's image to the encoder's input size, seeded per sample."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor
from torch.nn.functional import interpolate

from hjepa.data.decode import to_channels
from hjepa.data.reduce import Reduction
from hjepa.errors import UserError

CROP_TRIES = 10  # as torchvision's RandomResizedCrop: then the largest central crop is taken
DRAWS = 2 * CROP_TRIES + 3  # uniform numbers a sample needs: tries x (area, ratio), top, left, flip


@dataclass(frozen=True)
class ResizeToInput:
    """Bring any image to ``size`` (H, W) and ``channels`` without randomness.

    ``crop`` scales the image to cover the size and cuts the centre; ``pad`` scales it down if it is
    too large, never up, and centres it on black. ``value_range`` holds the values of images of more than 8 bits that
    become 0 and 1; with it all images become float32, because a batch has one type.
    """

    size: tuple[int, int]
    channels: int
    how: Literal["crop", "pad"] = "crop"
    value_range: tuple[float, float] | None = None

    @property
    def reduction(self) -> Reduction:
        """Return how much smaller images may be read."""
        return Reduction(self.size, how=self.how)

    def __call__(self, image: np.ndarray) -> Tensor:
        """Return uint8 or float32 [C, H, W] for [H', W', C'], or [B, C, H, W] for [B, H', W', C']."""
        return self.resize(self.whole(image))

    def whole(self, image: np.ndarray) -> Tensor:
        """Return the image before it is resized: uint8, or float32 in 0..1, [..., C, H', W']."""
        return channels_first(to_channels(self._scaled(image), self.channels))

    def crop(self, image: np.ndarray, box: Sequence[int]) -> np.ndarray:
        """Return a box (top, left, height, width) of an image [H', W', C'], stretched to ``size``: [C or 1, H, W].

        What is grey stays one channel, to be repeated where it is stored.
        """
        top, left, height, width = box
        part = self._scaled(image[top : top + height, left : left + width])
        if part.shape[-1] != 1:
            part = to_channels(part, self.channels)
        return stretched(part, self.size)

    def _scaled(self, image: np.ndarray) -> np.ndarray:
        if self.value_range is None:
            if image.dtype != np.uint8:
                raise UserError(
                    f"an image has more than 8 bits ({image.dtype}), but the encoder is trained on images of 8 bits: "
                    "convert it to 8 bits, or train another encoder on images of more than 8 bits"
                )
            return image
        return to_unit(image, self.value_range)

    def resize(self, image: Tensor) -> Tensor:
        """Resize [..., C, H', W'] to [..., C, H, W]."""
        have, want = (image.shape[-2], image.shape[-1]), self.size
        if have == want:
            return image.contiguous()
        ratios = (want[0] / have[0], want[1] / have[1])
        scale = max(ratios) if self.how == "crop" else min(1.0, *ratios)
        if scale != 1.0:
            scaled = [max(1, round(side * scale)) for side in have]
            image = TF.resize(image, scaled, antialias=True)
        return TF.center_crop(image, list(want)).contiguous()  # pads with zeros where too small


@dataclass(frozen=True)
class Augment:
    """Random resized crop and horizontal flip; each sample's draws are handed in, so it has no state."""

    resize: ResizeToInput
    crop_scale: tuple[float, float] | None
    crop_ratio: tuple[float, float]
    flip: float

    @property
    def reduction(self) -> Reduction:
        """Return how much smaller images may be read for these crops."""
        return Reduction(self.resize.size, self.crop_scale, self.crop_ratio, self.resize.how)

    def __call__(self, image: np.ndarray, draws: np.ndarray) -> Tensor:
        """Return [C, H, W], uint8 or float32 in 0..1, from [H', W', C'] and ``DRAWS`` uniform numbers."""
        return self.batch([image], draws[None])[0]

    def batch(self, images: np.ndarray | Sequence[np.ndarray], draws: np.ndarray) -> Tensor:
        """Return [B, C, H, W] from images [B, H', W', C'], or from B images of any sizes, and draws [B, DRAWS]."""
        flipped = draws[:, -1] < self.flip
        if self.crop_scale is None:
            if isinstance(images, np.ndarray):
                pixels = self.resize(images)
            else:
                pixels = torch.stack([self.resize(image) for image in images])
            flip = torch.from_numpy(flipped)[:, None, None, None]
            return torch.where(flip, pixels.flip(-1), pixels) if flipped.any() else pixels
        sizes = np.array([image.shape[:2] for image in images])
        boxes = crop_boxes(sizes, self.crop_scale, self.crop_ratio, draws)
        shape = (len(images), self.resize.channels, *self.resize.size)
        crops = np.empty(shape, np.uint8 if self.resize.value_range is None else np.float32)
        for place, image, box, mirrored in zip(crops, images, boxes.tolist(), flipped.tolist(), strict=True):
            crop = self.resize.crop(image, box)
            place[:] = crop[..., ::-1] if mirrored else crop
        return torch.from_numpy(crops)


def to_unit(image: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Return float32 in 0..1: uint8 divided by 255, other values by their range, clipped; what is not a number is 0."""
    if image.dtype == np.uint8:
        return image.astype(np.float32) / np.float32(255)
    low, high = value_range
    unit = (image.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.nan_to_num(np.clip(unit, 0.0, 1.0), nan=0.0)  # a hole in a measurement is drawn dark


def stretched(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image [H', W', C] of uint8 or float32 resized to ``size``, antialiased: [C, H, W].

    It is as ``torchvision.transforms.v2.functional.resize`` does it, but for the time that this spends on the way.
    """
    if image.shape[:2] == size:
        return image.transpose(2, 0, 1)
    # A copy, for torch cannot hold an array that is read-only; its values lie as the kernel for uint8 wants them.
    pixels = torch.from_numpy(image.copy())[None].permute(0, 3, 1, 2)
    if image.dtype == np.uint8 and not _resizes_bytes():
        pixels = TF.resize(pixels, list(size), antialias=True)
    else:
        pixels = interpolate(pixels, size, mode="bilinear", antialias=True)
    resized: np.ndarray = pixels[0].numpy()
    return resized


@functools.cache
def _resizes_bytes() -> bool:
    """Return whether torch resizes uint8 as it is on this processor; or else torchvision takes the way over float."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def channels_first(image: np.ndarray) -> Tensor:
    """Return [..., H, W, C] as a tensor [..., C, H, W]; a read-only array is copied, torch cannot hold one."""
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).movedim(-1, -3)


def crop_box(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], draws: np.ndarray
) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of a random crop of an image of (H, W) pixels."""
    top, left, height, width = crop_boxes(size, scale, ratio, draws[None])[0].tolist()
    return top, left, height, width


def crop_boxes(
    size: np.ndarray | tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], draws: np.ndarray
) -> np.ndarray:
    """Return (top, left, height, width) [B, 4] of random crops, for ``draws`` [B, DRAWS].

    ``size`` is (H, W) of the images in pixels: of all, or [B, 2] of each. Area uniform in ``scale``, aspect
    (width / height) log-uniform in ``ratio``, first of ten tries that fits; Szegedy et al. 2015, as in torchvision's
    RandomResizedCrop.
    """
    sizes = np.array(np.broadcast_to(size, (len(draws), 2)))
    tries = draws[:, : 2 * CROP_TRIES].reshape(-1, CROP_TRIES, 2)
    area = (sizes[:, :1] * sizes[:, 1:]) * (scale[0] + (scale[1] - scale[0]) * tries[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + (high - low) * tries[..., 1])
    sides = np.empty_like(tries)  # [B, tries, 2]
    np.sqrt(area / aspect, out=sides[..., 0])
    np.sqrt(area * aspect, out=sides[..., 1])
    np.rint(sides, out=sides)
    fits = np.all((sides >= 1) & (sides <= sizes[:, None]), axis=2)
    taken = sides[np.arange(len(draws)), np.argmax(fits, axis=1)].astype(np.int64)  # [B, 2]
    corner = (draws[:, -3:-1] * (sizes - taken + 1)).astype(np.int64)
    boxes = np.concatenate([corner, taken], axis=1)
    some = np.any(fits, axis=1, keepdims=True)
    if not some.all():
        longest = np.stack([sizes[:, 1] / ratio[0], sizes[:, 0] * ratio[1]], -1)  # sides of crops as wide, as high
        central = np.clip(np.rint(longest), 1, sizes).astype(np.int64)
        boxes = np.where(some, boxes, np.concatenate([(sizes - central) // 2, central], axis=1))
    return boxes
