"""What is minimised."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

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
