"""What the target encoder's tokens become before they are predicted."""

import torch.nn.functional as F
from torch import Tensor


def at_least_float32(tokens: Tensor) -> Tensor:
    """Lift half-precision tokens: statistics over many of them lose too much in 16 bits."""
    return tokens if tokens.element_size() >= 4 else tokens.float()


def normalise_targets(tokens: Tensor) -> Tensor:
    """Layer-normalise tokens [..., D] over D without trained parameters.

    eps is PyTorch's default 1e-5, not the 1e-6 of the networks: that is what the released I-JEPA uses.
    """
    return F.layer_norm(tokens, (tokens.shape[-1],))
