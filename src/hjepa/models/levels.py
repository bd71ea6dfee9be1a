"""What the target encoder's tokens become before they are predicted."""

import torch.nn.functional as F
from torch import Tensor


def normalise_targets(tokens: Tensor) -> Tensor:
    """Layer-normalise tokens [..., D] over D without trained parameters, in at least float32.

    eps is PyTorch's default 1e-5, not the 1e-6 of the networks: that is what the released I-JEPA uses.
    """
    tokens = tokens if tokens.element_size() >= 4 else tokens.float()
    return F.layer_norm(tokens, (tokens.shape[-1],))
