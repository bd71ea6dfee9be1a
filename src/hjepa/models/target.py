"""TargetEncoder: the exponential moving average (EMA) of the context encoder, and the only EMA."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hjepa.models.encoder import ContextEncoder


class TargetEncoder(nn.Module):
    """The EMA teacher: starts as an exact copy of the context encoder and is never trained by gradients.

    All parameters are frozen, and the module stays in evaluation mode even if ``train`` is called.
    ``momentum`` maps an optimizer step to the weight of the teacher in the average.
    """

    def __init__(self, context_encoder: ContextEncoder, momentum: Callable[[int], float]) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(context_encoder).requires_grad_(False)
        self.momentum = momentum
        self.train(False)

    def train(self, mode: bool = True) -> "TargetEncoder":
        """Stay in evaluation mode: targets must not depend on dropout or on calls of ``train``."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, images: Tensor, depths: Sequence[int] | None = None) -> Tensor | list[Tensor]:
        """Encode whole images [B, C, H, W] to tokens [B, N, D] without gradients; ``depths`` as in the encoder."""
        return self.encoder(images, depths=depths)

    @torch.no_grad()
    def update(self, context_encoder: ContextEncoder, momentum: float | Tensor) -> None:
        """Apply ``t <- momentum * t + (1 - momentum) * c`` to every parameter and float buffer.

        Integer buffers are copied. Tensors are paired by name and updated in place. Raises ValueError
        if names, shapes or formats differ, or if momentum lies outside [0, 1] (Grill et al. 2020,
        eq. 1; Assran et al. 2023, section 3). A momentum on the device, a scalar in float64, is not looked at.
        """
        if not isinstance(momentum, Tensor) and not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum is the weight of the teacher and must lie in [0, 1], got {momentum}")
        averaged, copied = self._pairs(context_encoder)
        teacher, student = [t for t, _ in averaged], [c for _, c in averaged]
        if isinstance(momentum, Tensor):
            kept, added = (share.to(teacher[0].dtype) for share in (momentum, 1.0 - momentum))
            torch._foreach_mul_(teacher, kept)
            torch._foreach_add_(teacher, torch._foreach_mul(student, added))
        else:
            torch._foreach_mul_(teacher, momentum)
            torch._foreach_add_(teacher, student, alpha=1.0 - momentum)
        for target, source in copied:
            target.copy_(source)

    @torch.no_grad()
    def copy_from_context_encoder(self, context_encoder: ContextEncoder) -> None:
        """Copy all weights of the context encoder."""
        averaged, copied = self._pairs(context_encoder)
        for target, source in averaged + copied:
            target.copy_(source)

    def update_from_context_encoder(self, context_encoder: ContextEncoder, current_step: int) -> float:
        """Update with the scheduled momentum for ``current_step``, and return it."""
        momentum = self.momentum(current_step)
        self.update(context_encoder, momentum)
        return momentum

    def _pairs(
        self, context_encoder: ContextEncoder
    ) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
        """Pair tensors by name: (trained parameters and float buffers, everything that is copied)."""
        own, other = _tensors(self.encoder), _tensors(context_encoder)
        if own.keys() != other.keys():
            odd = sorted(own.keys() ^ other.keys())
            raise ValueError(f"target and context encoder differ in {len(odd)} tensors, first: {odd[0]}")
        averaged: list[tuple[Tensor, Tensor]] = []
        copied: list[tuple[Tensor, Tensor]] = []
        for name, target in own.items():
            source = other[name]
            if target.shape != source.shape or target.dtype != source.dtype:
                raise ValueError(
                    f"{name}: target is {tuple(target.shape)} {target.dtype}, "
                    f"context is {tuple(source.shape)} {source.dtype}"
                )
            if target.dtype in (torch.float16, torch.bfloat16):
                # (1 - momentum) * c vanishes in half precision; autocast keeps float32 weights.
                raise ValueError(f"{name}: the average needs float32 weights, got {target.dtype}")
            (averaged if target.is_floating_point() else copied).append((target, source))
        return averaged, copied


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name."""
    return dict(module.named_parameters()) | dict(module.named_buffers())
