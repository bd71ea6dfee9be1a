"""Muon: orthogonalised updates for weight matrices, AdamW for everything else."""

import math
from typing import Any

import torch
from torch import Tensor

from hjepa.training.adamw import AdamW

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic, five rounds of it: Jordan et al. 2024
ROUNDS = 5


class Muon(AdamW):
    """Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for groups marked ``orthogonal``, else AdamW.

    It is one optimizer with one state, so schedules, scaler and checkpoints need no special case. Updates are scaled by
    0.2 sqrt(max side) to match AdamW, so both use one learning rate (Liu et al. 2025, arXiv:2502.16982, eq. 4).
    The iteration runs in ``products``: ``torch.optim.Muon`` and timm's are the same in bfloat16, which is a hundred
    times slower than float32 on a CPU without bfloat16 instructions.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        betas: tuple[float, float],
        eps: float = 1e-8,
        products: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(groups, betas=betas, eps=eps, orthogonal=False)
        self.products = products

    def move(self, group: dict[str, Any], moving: list[Tensor]) -> None:
        """Update the parameters of a group that have a gradient."""
        if not group["orthogonal"]:
            super().move(group, moving)
            return
        self.decay(group, moving)
        # One stack for each shape: a small model has dozens of small matrices, and a call for each costs more than
        # its products.
        alike: dict[torch.Size, list[Tensor]] = {}
        for matrix in moving:
            if not self.state[matrix]:
                self.state[matrix]["momentum"] = torch.zeros_like(matrix)
            alike.setdefault(matrix.shape, []).append(matrix)
        for matrices in alike.values():
            self._orthogonal_step(group["lr"], matrices)

    def _orthogonal_step(self, lr: Any, matrices: list[Tensor]) -> None:
        """Update matrices of one shape."""
        gradients = torch.stack([matrix.grad for matrix in matrices if matrix.grad is not None])
        momenta = [self.state[matrix]["momentum"] for matrix in matrices]
        momentum = torch.stack(momenta)
        if self.found_inf is not None:
            stays = (self.found_inf > 0).to(momentum.device)
            gradients = torch.where(stays, momentum, gradients)  # a gradient like the momentum leaves it as it is
        momentum = momentum.lerp(gradients, 1 - MOMENTUM)
        torch._foreach_copy_(momenta, list(momentum.unbind()))
        moves = orthogonal(gradients.lerp(momentum, MOMENTUM), self.products).to(gradients.dtype)  # Nesterov's
        length = lr * (0.2 * math.sqrt(max(matrices[0].shape)))
        moves = moves * -self.if_moving(length)
        torch._foreach_add_(matrices, list(moves.unbind()))


def orthogonal(matrices: Tensor, products: torch.dtype = torch.float32) -> Tensor:
    """Return matrices [k, m, n] with their singular vectors and singular values near 1 (0.7 to 1.2)."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).to(products).contiguous()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(ROUNDS):
        square = x @ x.mT
        # The sums are taken inside the products: a third of the time of a x + (b square + c square square) x.
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
