"""The one place where weights get their first values."""

import torch
from torch import nn

from hjepa.randomness import generator


def initialise(module: nn.Module, *, seed: int) -> None:
    """Draw all weights of an encoder or predictor from ``seed`` alone.

    Truncated normal with standard deviation 0.02 for linear layers, convolutions and mask tokens,
    zero biases, unit layer norms: what the released I-JEPA ends up with (its depth rescaling of
    residual projections is overwritten by a second draw, so it is left out here on purpose).
    Parameters with ``requires_grad=False`` (position tables) are left alone.
    """
    random = torch.Generator().manual_seed(int(generator(seed, "initialisation").integers(2**62)))
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        with torch.no_grad():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                nn.init.trunc_normal_(parameter, std=0.02, generator=random)
