"""The training objective: prediction loss and the optional VICReg regulariser."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from hjepa.models.hjepa import Forward
from hjepa.models.levels import at_least_float32

LossName = Literal["smooth-l1", "l2"]


class LossWeights(NamedTuple):
    """The weights of the objective's terms in one step."""

    levels: Sequence[float] | Tensor  # of each level's prediction loss, [L]; sum to 1
    variance_covariance: float | Tensor | None = None  # of the regulariser; None: there is none


class Losses(NamedTuple):
    """The terms of the objective, scalars; a step minimises their sum."""

    prediction: Tensor
    regulariser: Tensor  # already weighted; 0 if there is none


@dataclass(frozen=True)
class Objective:
    """The weighted loss of all levels, plus the weighted regulariser; the weights are those of the current step."""

    kind: LossName = "smooth-l1"

    def __call__(self, forward: Forward, context_index: Tensor, weights: LossWeights, patches: int = 0) -> Losses:
        """Return the losses of a forward pass whose context patches were ``context_index`` [B, V].

        ``patches`` is the number N of patches in an image, which only the regulariser needs.
        """
        prediction = levels_loss(forward, self.kind, weights.levels)
        if weights.variance_covariance is None:
            return Losses(prediction, prediction.new_zeros(()))
        spread = context_variance_covariance(forward.context, context_index, patches)
        return Losses(prediction, torch.as_tensor(weights.variance_covariance, dtype=spread.dtype) * spread)


def prediction_loss(predictions: Tensor, targets: Tensor, kind: LossName = "smooth-l1") -> Tensor:
    """Return the mean distance between predictions and targets [B, K, T, D], a scalar.

    ``smooth-l1`` with beta 1 is the loss of the released I-JEPA code, ``l2`` (squared) that of its paper
    (Assran et al. 2023, section 3). Predictions are cast to the targets' precision first.
    """
    predictions = predictions.to(targets.dtype)
    if kind == "smooth-l1":
        return F.smooth_l1_loss(predictions, targets)
    return F.mse_loss(predictions, targets)


def levels_loss(forward: Forward, kind: LossName, weights: Sequence[float] | Tensor) -> Tensor:
    """Return the weighted mean of the levels' losses, a scalar; ``weights`` [L] sum to 1."""
    losses = [prediction_loss(level.predictions, level.targets, kind) for level in forward.levels]
    # In the format of the losses: a float64 scalar on the device would make the sum float64, too.
    shares = zip(torch.as_tensor(weights, dtype=losses[0].dtype), losses, strict=True)
    total: Tensor = sum(weight * loss for weight, loss in shares)
    return total


def context_variance_covariance(context: Tensor, context_index: Tensor, patches: int) -> Tensor:
    """Return the VICReg variance-covariance loss on context tokens [B, V, D], a scalar.

    The batch mean of each patch position is subtracted first. This prevents features that encode position only, which
    is all that targets contain in the first thousands of steps. ``context_index`` [B, V] holds the patch index of each
    token, below ``patches``. With several ranks, the images of all of them are compared.
    """
    tokens, index = _gather_ranks(at_least_float32(context)), _gather_ranks(context_index)
    return variance_covariance(without_position(tokens, index, patches))


def variance_covariance(features: Tensor) -> Tensor:
    """Return VICReg's variance and covariance terms of features [n, D], summed with equal weight.

    They are zero for uncorrelated dimensions with a standard deviation of at least 1 (Bardes et al. 2022,
    arXiv:2105.04906, eq. 1 to 4, gamma 1, eps 1e-4).
    """
    centred = features - features.mean(0)
    covariance = centred.T @ centred / (len(features) - 1)  # [D, D]
    variances = covariance.diagonal()
    spread = F.relu(1.0 - (variances + 1e-4).sqrt()).mean()
    return spread + (covariance.square().sum() - variances.square().sum()) / len(variances)


def without_position(tokens: Tensor, index: Tensor, patches: int) -> Tensor:
    """Subtract from tokens [B, V, D] the batch mean of their patch position ``index`` [B, V]; rows [B*V, D]."""
    rows, place = tokens.flatten(0, 1), index.flatten()
    # Not bincount: its result is as long as the largest index is high, and the host would wait to be told.
    counts = rows.new_zeros(patches).index_add(0, place, torch.ones_like(place, dtype=rows.dtype))[:, None]  # [N, 1]
    sums = rows.new_zeros(patches, rows.shape[1]).index_add(0, place, rows)
    means = sums / counts.clamp_min(1)
    return rows - means[place]


def _gather_ranks(rows: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, with gradients."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows
    return torch.cat(all_gather(rows.contiguous()))
