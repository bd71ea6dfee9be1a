"""How much of the image content pooled features predict, measured without labels.

The effective rank tells how many directions features use, not whether these carry information: a regulariser that
spreads features raises the rank even while they lose information. So this module measures how well features predict
the content of their images, described by histograms of oriented gradients and by mean colours on a coarse grid. There
are two readouts, as features have two uses: a linear map, like a linear probe, and nearest neighbours, like retrieval.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.models.levels import gradient_histograms

MIN_IMAGES = 32
GRADIENT_CELLS, COLOUR_CELLS = 4, 8  # per side of the grid
MAX_SIDE = 64  # pixels; more detail does not matter for cells this coarse
MIN_VALUE = 0.01
NUM_COMPONENTS = 16  # leading principal components of the descriptions; the rest is specific to single images
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # ridge penalties on standardised features, per image
NUM_NEIGHBOURS = 10


class Estimate(NamedTuple):
    """The fraction of the image content that features predict, and how each image moves it."""

    value: float
    influence: Tensor  # [n], deviations of mean zero; their standard deviation / sqrt(n) is the standard error

    @property
    def error(self) -> float:
        """Return the standard error over the images."""
        return _standard_error(self.influence)


class Content(NamedTuple):
    """The fraction of the image content that features predict, with two readouts."""

    linear: Estimate
    neighbours: Estimate


NOT_MEASURED = Content(Estimate(float("nan"), torch.empty(0)), Estimate(float("nan"), torch.empty(0)))


def error_of_change(now: Estimate, start: Estimate) -> float:
    """Return the standard error of the difference of two estimates on the same images; NaN if one is not measured."""
    if len(now.influence) != len(start.influence):
        return float("nan")
    return _standard_error(now.influence - start.influence)


def _standard_error(influence: Tensor) -> float:
    return round(float(influence.std()) / len(influence) ** 0.5, 6) if len(influence) > 1 else float("nan")


class Description(NamedTuple):
    """A label-free description of the content of images."""

    gradients: Tensor  # [B, 16 * 9 * C], histograms of 4 x 4 cells, invariant to brightness (models/levels.py)
    colours: Tensor  # [B, 64 * C], means of 8 x 8 cells


def describe_images(images: Tensor) -> Description:
    """Describe normalised images [B, C, H, W]; where they are smaller than the grid, a cell is a pixel."""
    small = min(MAX_SIDE, images.shape[-2]), min(MAX_SIDE, images.shape[-1])
    if small != images.shape[-2:]:
        images = F.adaptive_avg_pool2d(images, small)
    gradients = gradient_histograms(images, (min(GRADIENT_CELLS, small[0]), min(GRADIENT_CELLS, small[1])))
    colours = F.adaptive_avg_pool2d(images, (min(COLOUR_CELLS, small[0]), min(COLOUR_CELLS, small[1])))
    return Description(gradients.flatten(1), colours.flatten(1))


def content(features: Tensor, descriptions: Sequence[Tensor]) -> Content:
    """Return how well features [n, D] predict the ``descriptions`` of their images, [n, F] each.

    The targets are the leading principal components of each description; every image is predicted from the others. The
    result is the geometric mean over the descriptions, so that doubling the value for gradients while halving it for
    colours is no gain: untrained features predict colours well and gradients hardly. Not measured on fewer than
    ``MIN_IMAGES`` images, nor where images or features are all alike or not finite.
    """
    if len(features) < MIN_IMAGES or not features.isfinite().all():
        return NOT_MEASURED
    wanted = [found for one in descriptions if (found := _leading_components(one)) is not None]
    x = features.double() - features.double().mean(0)
    if not wanted or float(x.abs().max()) <= 1e-9:
        return NOT_MEASURED
    return Content(
        _geometric_mean([_linear(x, one) for one in wanted]),
        _geometric_mean([_neighbours(features.double(), one) for one in wanted]),
    )


def _leading_components(description: Tensor) -> Tensor | None:
    """Return the leading principal components [n, K] of a description; None if it is the same for all images."""
    y = description.double() - description.double().mean(0)
    variances, axes = torch.linalg.eigh(y.T @ y)
    return y @ axes[:, -NUM_COMPONENTS:] if float(variances[-1]) > 1e-9 else None


def _geometric_mean(estimates: Sequence[Estimate]) -> Estimate:
    """Return the geometric mean of estimates; none counts as less than ``MIN_VALUE``."""
    values = [max(one.value, MIN_VALUE) for one in estimates]
    mean = math.exp(sum(map(math.log, values)) / len(values))
    relative = torch.stack([one.influence / value for one, value in zip(estimates, values, strict=True)]).mean(0)
    return Estimate(round(mean, 6), mean * relative)


def _linear(x: Tensor, wanted: Tensor) -> Estimate:
    """Return the fraction of variance that ridge regression explains, with the best of six penalties.

    Leave-one-out over the images, in closed form (Hastie, Tibshirani and Friedman 2009, eq. 7.64).
    """
    basis, sizes, _ = torch.linalg.svd(x / x.std(0).clamp_min(1e-9), full_matrices=False)
    spread = wanted.square().sum(1)  # [n]
    best = Estimate(float("-inf"), torch.empty(0))
    for penalty in PENALTIES:
        kept = sizes.square() / (sizes.square() + penalty * len(x))
        leverage = (basis.square() * kept).sum(1) + 1.0 / len(x)  # the mean is fitted as well
        missed = (wanted - (basis * kept) @ (basis.T @ wanted)) / (1.0 - leverage).clamp_min(1e-6)[:, None]
        share = _fraction(spread - missed.square().sum(1), spread)
        best = max(best, share, key=lambda one: one.value)
    return best


def _neighbours(features: Tensor, wanted: Tensor) -> Estimate:
    """Return how well an image's nearest neighbours (cosine), averaged, predict it: 1 perfectly, 0 not at all."""
    unit = F.normalize(features, dim=1)
    likeness = (unit @ unit.T).fill_diagonal_(float("-inf"))
    nearest = likeness.topk(min(NUM_NEIGHBOURS, len(unit) - 1), dim=1).indices
    return _fraction((wanted[nearest].mean(1) * wanted).sum(1), wanted.square().sum(1))


def _fraction(explained: Tensor, spread: Tensor) -> Estimate:
    """Return ``explained`` [n] as a fraction of ``spread``; rounded, since the last bits of threaded LAPACK vary.

    The influence is that of a ratio of two means: an image that differs much from the mean counts above and below.
    """
    value = float(explained.mean() / spread.mean())
    return Estimate(round(value, 6), (explained - value * spread) / spread.mean())


class ContentProbe:
    """Measures image content on a fixed sample of images [n, C, H, W], before training and at moments of it.

    The same images each time: the difference to the start is then known more precisely than either value, and in a
    short run there are more of them than in the batches since the weights last changed much.
    """

    def __init__(self, images: Tensor, normalise: Callable[[Tensor], Tensor], batch_size: int = 64) -> None:
        self._batches = images.split(batch_size)  # as they were read: bytes take a quarter of the memory
        self._normalise = normalise
        described = [describe_images(normalise(batch).float().cpu()) for batch in self._batches]
        self._descriptions = [torch.cat(parts) for parts in zip(*described, strict=True)]

    def measure(self, pooled: Callable[[Tensor], Tensor]) -> Content:
        """Return how much of their content the ``pooled`` features [B, D] of normalised images predict."""
        features = torch.cat([pooled(self._normalise(batch)).float().cpu() for batch in self._batches])
        return content(features, self._descriptions)
