"""Whether two images show the same picture: correlation of their gradients after one is cropped onto the other.

Vectors of an encoder bring similar pictures together; only the pixels tell a copy from another picture of its kind.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hjepa.deploy.contact_sheet import for_people

SIDE = 64  # pixels of the thumbnail that is kept of an image
CELLS = 12  # pixels of the side that are compared: fine enough to tell pictures apart, coarse enough for JPEG
CROPS = (0.975, 0.95, 0.925, 0.9)  # parts of the sides that may have been kept, at three places along each side
SAME_PICTURE = 0.9
"""Correlation from which two images are taken for the same picture: between copies, nearly all of which are above 0.95,
and other pairs, hardly any of which is above 0.8 (CIFAR-10, benchmarks/results/duplicates.md)."""


def picture_thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Return uint8 [SIDE, SIDE] of an image [H, W, C] of any size and depth: grey, and stretched to a square."""
    from PIL import Image

    image = for_people(pixels).convert("L")
    # Averages where it is made smaller; nothing is sharpened where it is made larger.
    how = Image.Resampling.BOX if min(image.size) >= SIDE else Image.Resampling.BILINEAR
    return np.asarray(image.resize((SIDE, SIDE), how))


def picture_correlations(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
    """Return how far pairs of thumbnails agree, float32 [p] in -1..1: the best of all crops of one onto the other."""
    a, b = (torch.from_numpy(np.stack(each)).float() / 255.0 for each in (first, second))
    crops = [_gradients(_all_crops(each)) for each in (a, b)]  # [p, V, F], the whole image first
    forward = (crops[0] * crops[1][:, :1]).sum(2).amax(1)
    backward = (crops[1] * crops[0][:, :1]).sum(2).amax(1)
    return torch.maximum(forward, backward).numpy()


def _all_crops(images: Tensor) -> Tensor:
    """Return [p, V, CELLS, CELLS]: the images [p, SIDE, SIDE] and their crops, averaged within cells."""
    found = [_resampled(images, _averages(1.0))]
    found += [_resampled(images, _averages(kept)) for kept in CROPS]
    return torch.cat(found, dim=1)


def _resampled(images: Tensor, averages: Tensor) -> Tensor:
    """Return [p, places * places, CELLS, CELLS] of images; ``averages`` is [places, CELLS, SIDE]."""
    rows = torch.einsum("vgs,pst->pvgt", averages, images)
    return torch.einsum("pvgt,wht->pvwgh", rows, averages).flatten(1, 2)


def _averages(kept: float) -> Tensor:
    """Return the averages over the cells of a crop along one side, for each of its places: [places, CELLS, SIDE]."""
    places = [0.0] if kept == 1.0 else [0.0, (1 - kept) / 2, 1 - kept]
    found = []
    for start in places:
        edges = np.linspace(start * SIDE, (start + kept) * SIDE, CELLS + 1)
        left = np.arange(SIDE)
        overlap = np.minimum(edges[1:, None], left + 1) - np.maximum(edges[:-1, None], left)
        found.append(np.clip(overlap, 0, None) / (edges[1:] - edges[:-1])[:, None])
    return torch.from_numpy(np.stack(found).astype(np.float32))


def _gradients(images: Tensor) -> Tensor:
    """Return the differences between neighbouring cells, normalised: [p, V, F]; of even images they are near zero."""
    across, down = images[..., :, 1:] - images[..., :, :-1], images[..., 1:, :] - images[..., :-1, :]
    found = torch.cat([across.flatten(2), down.flatten(2)], dim=2)
    return found / (found.norm(dim=2, keepdim=True) + 1e-3)
