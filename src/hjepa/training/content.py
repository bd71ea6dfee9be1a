"""What pooled features say of whole images, measured without labels, in the two ways in which features are used.

Rank says how many directions features use, not whether these say anything: a term that spreads features raises it
while they lose what they knew. So the features are asked what is where in their images, described by histograms of
gradients and by colours on a coarse grid: by a linear map, as a linear probe would, and by nearest neighbours, as a
search would.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.models.levels import gradient_histograms

LEAST_IMAGES = 32
GRADIENT_CELLS, COLOUR_CELLS = 4, 8  # a side: where in the image
LARGEST = 64  # pixels a side; more detail says nothing about cells this coarse
LEAST_SHARE = 0.01
COMPONENTS = 16  # of the descriptions, the largest: the rest differs from image to image and nothing can know it
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of ridge regression on standardised features, a share of the images
NEIGHBOURS = 10


class Known(NamedTuple):
    """A share of what is in images that features know, and its standard error over the images."""

    share: float
    error: float


class Content(NamedTuple):
    """What features know of their images, read in two ways."""

    linear: Known
    neighbours: Known


NOTHING_KNOWN = Content(Known(float("nan"), float("nan")), Known(float("nan"), float("nan")))


class Description(NamedTuple):
    """What is where in images, without labels."""

    gradients: Tensor  # [B, 16 * 9 * C], histograms of 4 x 4 cells, whatever the light (models/levels.py)
    colours: Tensor  # [B, 64 * C], means of 8 x 8 cells


def describe_images(images: Tensor) -> Description:
    """Describe normalised images [B, C, H, W]; where they are smaller than a grid a cell is a pixel."""
    small = min(LARGEST, images.shape[-2]), min(LARGEST, images.shape[-1])
    if small != images.shape[-2:]:
        images = F.adaptive_avg_pool2d(images, small)
    gradients = gradient_histograms(images, (min(GRADIENT_CELLS, small[0]), min(GRADIENT_CELLS, small[1])))
    colours = F.adaptive_avg_pool2d(images, (min(COLOUR_CELLS, small[0]), min(COLOUR_CELLS, small[1])))
    return Description(gradients.flatten(1), colours.flatten(1))


def content(features: Tensor, descriptions: Sequence[Tensor]) -> Content:
    """Return how much of the descriptions of images, [n, F] each, is known from the features [n, D] of these images.

    Of each description its largest principal components are asked for; every image is predicted from the others. The
    geometric mean over the descriptions is returned: who doubles what is known of gradients and halves what is known of
    colours has gained nothing, and untrained features know colours well and gradients hardly. Nothing is known of fewer
    images than ``LEAST_IMAGES``, nor of images or features that are all alike or not finite.
    """
    if len(features) < LEAST_IMAGES or not features.isfinite().all():
        return NOTHING_KNOWN
    wanted = [found for one in descriptions if (found := _largest_components(one)) is not None]
    x = features.double() - features.double().mean(0)
    if not wanted or float(x.abs().max()) <= 1e-9:
        return NOTHING_KNOWN
    return Content(
        _together([_linear(x, one) for one in wanted]),
        _together([_by_neighbours(features.double(), one) for one in wanted]),
    )


def _largest_components(description: Tensor) -> Tensor | None:
    """Return the largest principal components [n, K] of a description; None if all images are alike in it."""
    y = description.double() - description.double().mean(0)
    variances, axes = torch.linalg.eigh(y.T @ y)
    return y @ axes[:, -COMPONENTS:] if float(variances[-1]) > 1e-9 else None


def _together(known: Sequence[Known]) -> Known:
    """Return the geometric mean of what is known; what is not known at all counts as ``LEAST_SHARE``."""
    shares = [max(one.share, LEAST_SHARE) for one in known]
    mean = math.exp(sum(map(math.log, shares)) / len(shares))
    relative = math.sqrt(sum((one.error / share) ** 2 for one, share in zip(known, shares, strict=True))) / len(shares)
    return Known(round(mean, 6), round(mean * relative, 6))


def _linear(x: Tensor, wanted: Tensor) -> Known:
    """Return the share of the variance that ridge regression explains, with the best of six penalties.

    Each image is left out in turn, in closed form (Hastie, Tibshirani and Friedman 2009, eq. 7.64).
    """
    basis, sizes, _ = torch.linalg.svd(x / x.std(0).clamp_min(1e-9), full_matrices=False)
    spread = wanted.square().sum(1)  # [n]
    best = Known(float("-inf"), 0.0)
    for penalty in PENALTIES:
        kept = sizes.square() / (sizes.square() + penalty * len(x))
        leverage = (basis.square() * kept).sum(1) + 1.0 / len(x)  # the mean is fitted as well
        missed = (wanted - (basis * kept) @ (basis.T @ wanted)) / (1.0 - leverage).clamp_min(1e-6)[:, None]
        share = _share(spread - missed.square().sum(1), spread)
        best = max(best, share)
    return best


def _by_neighbours(features: Tensor, wanted: Tensor) -> Known:
    """Return how far the mean of an image's nearest neighbours by cosine is what the image is: 1 all, 0 nothing."""
    unit = F.normalize(features, dim=1)
    likeness = (unit @ unit.T).fill_diagonal_(float("-inf"))
    nearest = likeness.topk(min(NEIGHBOURS, len(unit) - 1), dim=1).indices
    return _share((wanted[nearest].mean(1) * wanted).sum(1), wanted.square().sum(1))


def _share(explained: Tensor, spread: Tensor) -> Known:
    """Return explained [n] as a share of all; rounded, since threaded LAPACK does not repeat its last bits."""
    of_each = explained / spread.mean()
    return Known(round(float(of_each.mean()), 6), round(float(of_each.std()) / len(spread) ** 0.5, 6))
