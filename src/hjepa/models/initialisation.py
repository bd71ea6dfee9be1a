"""Weight initialisation, all in one place."""

import math
from typing import Literal

import torch
from timm.layers import Attention
from torch import Tensor, nn

from hjepa.randomness import generator

Initialisation = Literal["released", "xavier", "mimetic"]


def initialise(module: nn.Module, *, seed: int, kind: Initialisation = "released") -> None:
    """Initialise all weights of an encoder or predictor; they depend on ``seed`` alone.

    Truncated normal with standard deviation 0.02 for linear layers, convolutions and mask tokens,
    zero biases, unit layer norms: what the released I-JEPA ends up with (its depth rescaling of
    residual projections is overwritten by a second initialisation, so it is left out here on purpose).

    ``xavier`` initialises linear layers with Xavier uniform (Glorot and Bengio 2010, eq. 16), queries, keys and values
    as separate layers; everything else is as released. A standard deviation of 0.02 is meant for widths near 1,000: at
    width 128, blocks initialised that way add next to nothing to the residual stream, so that features, and with them
    the first targets, are little more than position embeddings.

    ``mimetic`` is ``xavier`` with attention weights that resemble those of trained networks (``mimetic_attention``).

    Parameters with ``requires_grad=False`` (position tables) are left alone. Draws are made on the CPU in the default
    format and copied, so a module on another device, or in float64, gets the same values.
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
            elif kind != "released" and parameter.ndim == 2:
                for layer in _layers_in(name, parameter):
                    layer.copy_(nn.init.xavier_uniform_(torch.empty(layer.shape), generator=random))
            else:
                parameter.copy_(nn.init.trunc_normal_(torch.empty(parameter.shape), std=0.02, generator=random))
    if kind == "mimetic":
        for part in module.modules():
            if isinstance(part, Attention):
                mimetic_attention(part, random)


@torch.no_grad()
def mimetic_attention(attention: Attention, random: torch.Generator) -> None:
    """Mimetic initialisation of self-attention (Trockman and Kolter 2023, arXiv:2305.09828, section 4).

    W_q^T W_k ~ 0.7 (Z + I) in each head, truncated to the head's rank (its largest singular values), and
    W_v^T W_proj^T ~ 0.4 (Z - I), where Z is Gaussian with variance 1 / width. Tokens thus attend to similar tokens and
    subtract what they find, as in trained networks. Biases are left as they are.
    """
    weight = attention.qkv.weight
    queries, keys, values = (part.unflatten(0, (attention.num_heads, -1)) for part in weight.chunk(3))  # [H, D/H, D]
    width, size = weight.shape[1], queries.shape[1]
    for query, key in zip(queries, keys, strict=True):
        left, right = _halves(0.7, 0.7, width, random)
        query.copy_(left.T[:size])
        key.copy_(right[:size])
    left, right = _halves(0.4, -0.4, width, random)
    values.copy_(left.T.unflatten(0, values.shape[:2]))
    attention.proj.weight.copy_(right.T)


def _halves(noise: float, identity: float, width: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return L, R [D, D] with L R = noise Z + identity I; the columns of L, rows of R by falling singular value."""
    z = torch.randn(width, width, generator=random, dtype=torch.float64) / math.sqrt(width)
    u, s, v = torch.linalg.svd(noise * z + identity * torch.eye(width, dtype=torch.float64))
    halves = u * s.sqrt(), s.sqrt()[:, None] * v
    left, right = (half.to(torch.get_default_dtype()) for half in halves)
    return left, right


def _layers_in(name: str, weight: Tensor) -> tuple[Tensor, ...]:
    """Return the layers that one matrix [out, in] holds."""
    return weight.chunk(3) if name.endswith("qkv.weight") else (weight,)
