"""What is minimised."""

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


class Losses(NamedTuple):
    """The parts of what a step minimises, scalars; it minimises their sum."""

    prediction: Tensor
    regulariser: Tensor  # with its weight; 0 without one


@dataclass(frozen=True)
class Objective:
    """The weighted loss of the levels; the regulariser is added with the weight of the step."""

    kind: LossName = "smooth-l1"
    level_shares: tuple[float, ...] = (1.0,)  # add up to 1

    def __call__(self, forward: Forward, context_index: Tensor, variance_covariance: float = 0.0) -> Losses:
        """Return the losses of a forward pass whose context patches were ``context_index`` [B, V]."""
        prediction = levels_loss(forward, self.kind, self.level_shares)
        if not variance_covariance:
            return Losses(prediction, prediction.new_zeros(()))
        return Losses(prediction, variance_covariance * context_variance_covariance(forward.context, context_index))


def prediction_loss(predictions: Tensor, targets: Tensor, kind: LossName = "smooth-l1") -> Tensor:
    """Return the mean distance between predictions and targets [B, K, T, D], a scalar.

    ``smooth-l1`` with beta 1 is what the released I-JEPA minimises, ``l2`` (squared) what its paper
    says (Assran et al. 2023, section 3). Predictions are lifted to the targets' precision first.
    """
    predictions = predictions.to(targets.dtype)
    if kind == "smooth-l1":
        return F.smooth_l1_loss(predictions, targets)
    return F.mse_loss(predictions, targets)


def levels_loss(forward: Forward, kind: LossName, weights: Sequence[float]) -> Tensor:
    """Return the weighted mean of the levels' losses, a scalar; ``weights`` add up to 1."""
    losses = (prediction_loss(level.predictions, level.targets, kind) for level in forward.levels)
    total: Tensor = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))  # type: ignore[assignment]
    return total


def level_shares(weights: Sequence[float] | None, levels: int) -> tuple[float, ...]:
    """Return weights that add up to 1; without any, each level has the same."""
    given = tuple(weights or (1.0,) * levels)
    return tuple(weight / sum(given) for weight in given)


def context_variance_covariance(context: Tensor, context_index: Tensor) -> Tensor:
    """Keep images apart at every place in what the context encoder says of them, tokens [B, V, D]; a scalar.

    ``variance_covariance`` of the tokens less the mean of their patch over the batch: a token has to say more than
    where it is, which is all that targets hold in the first thousands of steps. ``context_index`` [B, V] says which
    patches the tokens are. In several processes the images of all of them are compared.
    """
    tokens, patches = _of_all_processes(at_least_float32(context)), _of_all_processes(context_index)
    return variance_covariance(without_position(tokens, patches))


def variance_covariance(features: Tensor) -> Tensor:
    """Return how far features [n, D] are from a spread of at least 1 on every axis and from being uncorrelated.

    VICReg's variance and covariance terms (Bardes et al. 2022, arXiv:2105.04906, eq. 1 to 4, gamma 1, eps 1e-4),
    added with the same weight.
    """
    centred = features - features.mean(0)
    covariance = centred.T @ centred / (len(features) - 1)  # [D, D]
    variances = covariance.diagonal()
    spread = F.relu(1.0 - (variances + 1e-4).sqrt()).mean()
    return spread + (covariance.square().sum() - variances.square().sum()) / len(variances)


def without_position(tokens: Tensor, patches: Tensor) -> Tensor:
    """Return tokens [B, V, D], less the mean over the batch of the patch [B, V] they are, as rows [B*V, D]."""
    rows, place = tokens.flatten(0, 1), patches.flatten()
    counts = torch.bincount(place)[:, None]  # [N, 1], up to the last patch that occurs
    sums = rows.new_zeros(len(counts), rows.shape[1]).index_add(0, place, rows)
    means = sums / counts.clamp_min(1)
    return rows - means[place]


def _of_all_processes(rows: Tensor) -> Tensor:
    """Return the rows of every process one after the other, with their gradient."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows
    return torch.cat(all_gather(rows.contiguous()))
