"""Resize, crop and flip: from a source's image to the encoder's input size, seeded per sample."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor

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
        if self.crop_scale is None:
            pixels = self.resize(image)
        else:
            whole = self.resize.whole(image)
            box = crop_box((whole.shape[1], whole.shape[2]), self.crop_scale, self.crop_ratio, draws)
            pixels = TF.resized_crop(whole, *box, list(self.resize.size), antialias=True)
        return pixels.flip(-1) if draws[-1] < self.flip else pixels

    def batch(self, images: np.ndarray, draws: np.ndarray) -> Tensor:
        """Return uint8 [B, C, H, W] from uint8 [B, H', W', C'] and draws [B, DRAWS]; the same pixels."""
        if self.crop_scale is not None:
            return torch.stack([self(image, row) for image, row in zip(images, draws, strict=True)])
        pixels = self.resize(images)
        flipped = torch.from_numpy(draws[:, -1] < self.flip)
        return torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels) if flipped.any() else pixels


def to_unit(image: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Return float32 in 0..1: uint8 divided by 255, other values by their range, clipped; what is not a number is 0."""
    if image.dtype == np.uint8:
        return image.astype(np.float32) / np.float32(255)
    low, high = value_range
    unit = (image.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.nan_to_num(np.clip(unit, 0.0, 1.0), nan=0.0)  # a hole in a measurement is drawn dark


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
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], draws: np.ndarray
) -> np.ndarray:
    """Return (top, left, height, width) [B, 4] of random crops of images of (H, W) pixels, for ``draws`` [B, DRAWS].

    Area uniform in ``scale``, aspect (width / height) log-uniform in ``ratio``, first of ten tries that
    fits; Szegedy et al. 2015, as in torchvision's RandomResizedCrop.
    """
    tries = draws[:, : 2 * CROP_TRIES].reshape(-1, CROP_TRIES, 2)
    area = size[0] * size[1] * (scale[0] + (scale[1] - scale[0]) * tries[..., 0])
    low, high = np.log(ratio[0]), np.log(ratio[1])
    aspect = np.exp(low + (high - low) * tries[..., 1])
    sides = np.stack([np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))], -1)  # [B, tries, 2]
    fits = np.all((sides >= 1) & (sides <= size), axis=-1)
    taken = sides[np.arange(len(draws)), np.argmax(fits, axis=1)].astype(np.int64)  # [B, 2]
    corner = (draws[:, -3:-1] * (np.array(size) - taken + 1)).astype(np.int64)
    central = np.array(
        [
            min(size[0], max(1, round(size[1] / ratio[0]))),
            min(size[1], max(1, round(size[0] * ratio[1]))),
        ]
    )
    some = np.any(fits, axis=1, keepdims=True)
    middle = (np.array(size) - central) // 2
    return np.concatenate([np.where(some, corner, middle), np.where(some, taken, central)], axis=1)
