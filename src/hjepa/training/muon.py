"""Muon: orthogonalised updates for weight matrices, AdamW for everything else."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic, five rounds of it: Jordan et al. 2024
ROUNDS = 5


class Muon(Optimizer):
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
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "betas": betas, "eps": eps, "orthogonal": False})
        self.products = products

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [(p, p.grad) for p in group["params"] if p.grad is not None]
            (self._orthogonal_step if group["orthogonal"] else self._adamw_step)(group, moving)
        return loss

    def _orthogonal_step(self, group: dict[str, Any], moving: list[tuple[Tensor, Tensor]]) -> None:
        matrices = [matrix for matrix, _ in moving]
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix]["momentum"] = torch.zeros_like(matrix)
        momenta = [self.state[matrix]["momentum"] for matrix in matrices]
        gradients = [gradient for _, gradient in moving]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        # One stack for each shape: a small model has dozens of small matrices, and a call for each costs more than
        # its products.
        alike: dict[torch.Size, list[int]] = {}
        for number, matrix in enumerate(matrices):
            alike.setdefault(matrix.shape, []).append(number)
        for shape, numbers in alike.items():
            moves = orthogonal(torch.stack([ahead[number] for number in numbers]), self.products).to(matrices[0].dtype)
            length = 0.2 * math.sqrt(max(shape))
            torch._foreach_add_([matrices[number] for number in numbers], moves.unbind(), alpha=-group["lr"] * length)

    def _adamw_step(self, group: dict[str, Any], moving: list[tuple[Tensor, Tensor]]) -> None:
        parameters = [parameter for parameter, _ in moving]
        for parameter in parameters:
            if not self.state[parameter]:
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter] = {"step": torch.zeros((), device=parameter.device), **zeros}
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [gradient for _, gradient in moving],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


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
