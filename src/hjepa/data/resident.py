"""Images that stay in the memory of the device: crops and flips of a whole batch are computed there.

Which crops and flips they are is drawn on the host, by the same numbers as everywhere (decision 0026).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hjepa.data.augment import Augment, crop_boxes
from hjepa.data.sources import ImageSource

CHUNK = 1024  # images copied at a time
ROOM = 0.25  # fraction of the free memory of the device that images may take


class Draw(NamedTuple):
    """Which images a micro-batch has, and how they are cropped and flipped."""

    images: Tensor  # [b], int64
    boxes: Tensor | None  # [b, 4]: top, left, height, width in pixels; None: whole images
    flipped: Tensor  # [b], bool


class ResidentImages:
    """All images of a source as uint8 [n, C, H, W] on a device; without random crops, at the encoder's input size."""

    def __init__(self, source: ImageSource, augment: Augment, device: torch.device) -> None:
        self.augment = augment
        bring = augment.resize if augment.crop_scale is None else augment.resize.whole
        chunks = []
        for start in range(0, len(source), CHUNK):
            pixels = source.batch(range(start, min(start + CHUNK, len(source))))  # type: ignore[attr-defined]
            chunks.append(bring(pixels).to(device))
        self.pixels = torch.cat(chunks)

    def draw(self, images: np.ndarray, draws: np.ndarray) -> Draw:
        """Return what ``draws`` [b, DRAWS] make of the ``images`` [b] of a micro-batch; on the host."""
        augment, size = self.augment, (self.pixels.shape[-2], self.pixels.shape[-1])
        boxes = None
        if augment.crop_scale is not None:
            boxes = torch.from_numpy(crop_boxes(size, augment.crop_scale, augment.crop_ratio, draws))
        return Draw(torch.from_numpy(images), boxes, torch.from_numpy(draws[:, -1] < augment.flip))

    def batch(self, draw: Draw) -> Tensor:
        """Return uint8 [b, C, H, W] at the encoder's input size; all of ``draw`` is on the device."""
        pixels = self.pixels.index_select(0, draw.images)
        if draw.boxes is not None:
            pixels = resized_crops(pixels, draw.boxes, self.augment.resize.size)
        return torch.where(draw.flipped[:, None, None, None], pixels.flip(-1), pixels)


def fit_on(source: ImageSource, augment: Augment, *, free: float) -> bool:
    """Return whether the images of a source can and should stay on a device with so many free bytes."""
    if not hasattr(source, "batch") or augment.resize.value_range is not None:
        return False
    first = source[0]
    height, width = augment.resize.size if augment.crop_scale is None else first.shape[:2]
    return first.dtype == np.uint8 and len(source) * augment.resize.channels * height * width <= ROOM * free


def resized_crops(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the ``boxes`` [B, 4] (top, left, height, width) of uint8 images [B, C, H, W], resized to ``size``: uint8.

    Antialiased bilinear, as torchvision's kernel but for its rounding: at most one level of 255 apart.
    """
    top, left, height, width = boxes.unbind(1)
    down = _weights(top, height, images.shape[-2], size[0])  # [B, h, H]
    across = _weights(left, width, images.shape[-1], size[1])  # [B, w, W]
    resized = down[:, None] @ images.to(down.dtype) @ across.mT[:, None]
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def _weights(start: Tensor, length: Tensor, side: int, wanted: int) -> Tensor:
    """Return the share of each of ``side`` pixels in each of the ``wanted`` ones: float32 [B, wanted, side].

    A triangle around the centre of the wanted pixel, as wide as it, or as a pixel of the image where it grows.
    """
    scale = (length / wanted)[:, None, None]  # pixels of the image for one that is wanted
    centre = scale * (torch.arange(wanted, device=start.device) + 0.5)[None, :, None]
    place = torch.arange(side, device=start.device)[None, None, :] - start[:, None, None] + 0.5  # in the crop
    share = (1 - (place - centre).abs() / scale.clamp_min(1.0)).clamp_min(0.0)
    share = share * ((place > 0) & (place < length[:, None, None]))
    return share / share.sum(-1, keepdim=True)
