"""The one place where weights get their first values."""

from typing import Literal

import torch
from torch import Tensor, nn

from hjepa.randomness import generator

Initialisation = Literal["released", "xavier"]


def initialise(module: nn.Module, *, seed: int, kind: Initialisation = "released") -> None:
    """Draw all weights of an encoder or predictor from ``seed`` alone.

    Truncated normal with standard deviation 0.02 for linear layers, convolutions and mask tokens,
    zero biases, unit layer norms: what the released I-JEPA ends up with (its depth rescaling of
    residual projections is overwritten by a second draw, so it is left out here on purpose).

    ``xavier`` draws linear layers as Glorot and Bengio (2010), eq. 16, uniform, queries, keys and values each as
    a layer of its own; the rest stays. 0.02 is meant for widths near 1,000: at 128 a block of the released kind
    adds next to nothing to the stream, which then is the positions, and so are the first targets.

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
            elif kind == "xavier" and parameter.ndim == 2:
                for layer in _layers_in(name, parameter):
                    nn.init.xavier_uniform_(layer, generator=random)
            else:
                nn.init.trunc_normal_(parameter, std=0.02, generator=random)


def _layers_in(name: str, weight: Tensor) -> tuple[Tensor, ...]:
    """Return the layers that one matrix [out, in] holds."""
    return weight.chunk(3) if name.endswith("qkv.weight") else (weight,)
