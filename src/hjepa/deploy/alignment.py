"""Whether two images show the same picture: gradients and colours are compared, one cropped onto the other.

Vectors of an encoder bring similar pictures together; only the pixels tell a copy from another picture of its kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from hjepa.deploy.contact_sheet import for_people

SIDE = 64  # pixels of the thumbnail that is kept of an image
CELLS = 12  # pixels of the side that are compared: fine enough to tell pictures apart, coarse enough for JPEG
CROPS = (0.975, 0.95, 0.925, 0.9)  # parts of the sides that may have been kept, at three places along each side
BLOCK = 4  # cells of the side of a block: what differs in one place only is not averaged away

# Of the same picture all three hold (CIFAR-10 and clip art: benchmarks/results/duplicates.md).
GRADIENTS = 0.9  # correlation of gradients, at least: 99.5 % of copies are above 0.94, other photographs below 0.8
BLOCK_GRADIENTS = 0.6  # the same within the block where they agree least: things of one outline, but of other content
BLOCK_COLOURS = 0.1  # mean difference of colours, of 1, within the block where they differ most: a coin, but a ball

_EVEN = BLOCK * BLOCK * 0.02**2  # squared gradients of a block in which there is nothing to compare
_LUMINANCE = torch.tensor([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Agreement:
    """How far pairs of pictures agree, float32 [p] each, for the best crop of one onto the other."""

    gradients: np.ndarray  # correlation of gradients, -1..1
    block_gradients: np.ndarray  # the smallest of any block
    block_colours: np.ndarray  # the largest mean difference of colours of any block, 0..1

    @property
    def same_picture(self) -> np.ndarray:
        """Return which pairs show the same picture, bool [p]."""
        alike = (self.gradients >= GRADIENTS) & (self.block_gradients >= BLOCK_GRADIENTS)
        return np.asarray(alike & (self.block_colours <= BLOCK_COLOURS))


def picture_thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Return uint8 [SIDE, SIDE, 3] of an image [H, W, C] of any size and depth, stretched to a square."""
    from PIL import Image

    image = for_people(pixels).convert("RGB")
    # Averages where it is made smaller; nothing is sharpened where it is made larger.
    how = Image.Resampling.BOX if min(image.size) >= SIDE else Image.Resampling.BILINEAR
    return np.asarray(image.resize((SIDE, SIDE), how))


def picture_agreement(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Agreement:
    """Return how far pairs of thumbnails agree, at the crop of one onto the other whose gradients correlate most."""
    a, b = (_all_crops(torch.from_numpy(np.stack(each)).float() / 255.0) for each in (first, second))
    unit_a, unit_b = _unit_gradients(a), _unit_gradients(b)  # [p, V, F], the whole image first
    correlations = torch.cat([(unit_a * unit_b[:, :1]).sum(2), (unit_b * unit_a[:, :1]).sum(2)], dim=1)
    best = correlations.max(1)
    pair, of_b, view = torch.arange(len(a)), best.indices >= a.shape[1], best.indices % a.shape[1]
    of_b = of_b.view(-1, 1, 1, 1)
    cropped, whole = torch.where(of_b, b[pair, view], a[pair, view]), torch.where(of_b, a[:, 0], b[:, 0])
    colours = _blocks((cropped - whole).abs().mean(1)).amax(1)
    return Agreement(best.values.numpy(), _least_agreement(cropped, whole).numpy(), colours.numpy())


def _blocks(cells: Tensor) -> Tensor:
    """Return the means over the blocks of cells [p, g, g]: [p, n]."""
    return avg_pool2d(cells[:, None], BLOCK).flatten(1)


def _least_agreement(first: Tensor, second: Tensor) -> Tensor:
    """Return the correlation of the gradients of [p, 3, g, g] within the block where it is smallest: [p]."""
    one, other = (torch.stack([pad(across, (0, 1)), pad(down, (0, 0, 0, 1))])
                  for across, down in (_gradients(first), _gradients(second)))  # fmt: skip
    both, square, other_square = (
        _blocks((x * y).sum(0)) * BLOCK**2 + _EVEN for x, y in ((one, other), (one, one), (other, other))
    )
    return (both / (square * other_square).sqrt()).amin(1)


def _all_crops(images: Tensor) -> Tensor:
    """Return [p, V, 3, CELLS, CELLS]: the images [p, SIDE, SIDE, 3] and their crops, averaged within cells."""
    return torch.cat([_resampled(images, _averages(kept)) for kept in (1.0, *CROPS)], dim=1)


def _resampled(images: Tensor, averages: Tensor) -> Tensor:
    """Return [p, places * places, 3, CELLS, CELLS] of images; ``averages`` is [places, CELLS, SIDE]."""
    rows = torch.einsum("vgs,pstc->pvgtc", averages, images)
    return torch.einsum("pvgtc,wht->pvwcgh", rows, averages).flatten(1, 2)


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


def _gradients(colours: Tensor) -> tuple[Tensor, Tensor]:
    """Return the differences of brightness between neighbouring cells of [..., 3, g, g], across and down."""
    grey = (colours * _LUMINANCE[:, None, None]).sum(-3)
    return grey[..., :, 1:] - grey[..., :, :-1], grey[..., 1:, :] - grey[..., :-1, :]


def _unit_gradients(crops: Tensor) -> Tensor:
    """Return the gradients of crops [p, V, 3, g, g] as vectors of length one, [p, V, F]; near zero of even images."""
    found = torch.cat([each.flatten(2) for each in _gradients(crops)], dim=2)
    return found / (found.norm(dim=2, keepdim=True) + 1e-3)
