"""What is minimised."""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from hjepa.models.hjepa import Forward

LossName = Literal["smooth-l1", "l2"]


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
