"""AdamW whose rates are tensors, and which can be told by a tensor to move nothing."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw


class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), for steps that the host does not look into.

    ``lr`` and ``weight_decay`` of a group may be tensors on the device. ``found_inf`` has torch's meaning: where it
    is 1 the step moves nothing, neither parameters nor state. The fused kernel of ``torch.optim.AdamW`` takes both,
    but its weight decay is a number on the host; so it is applied here, and the kernel gets none.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float = 1e-8, **defaults: Any
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "betas": betas, "eps": eps, **defaults})
        self.found_inf: Tensor | None = None  # float32, 0 or 1; None: every step moves

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if moving := [parameter for parameter in group["params"] if parameter.grad is not None]:
                self.move(group, moving)
        return loss

    def move(self, group: dict[str, Any], moving: list[Tensor]) -> None:
        """Update the parameters of a group that have a gradient."""
        if moving[0].device.type == "mps":
            self._move_by_the_host(group, moving)
            return
        self.decay(group, moving)
        self._adamw(group, moving, lr=group["lr"], fused=True, found_inf=self.found_inf)

    def decay(self, group: dict[str, Any], moving: list[Tensor]) -> None:
        """Decay weights: ``p <- (1 - lr * weight_decay) * p``, unless the step moves nothing."""
        rate = group["lr"] * group["weight_decay"]
        if isinstance(rate, Tensor):
            torch._foreach_mul_(moving, (1.0 - self.if_moving(rate)).to(moving[0].dtype))
        elif rate:
            torch._foreach_mul_(moving, 1.0 - self.if_moving(rate))

    def if_moving(self, value: Any) -> Any:
        """Return a number, or 0 if the step moves nothing."""
        return value if self.found_inf is None else value * (1.0 - self.found_inf)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with rates as plain numbers."""
        state = super().state_dict()
        for group in state["param_groups"]:
            group.update({name: float(group[name]) for name in ("lr", "weight_decay")})
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state; step counts go where their parameters are, as the fused kernel needs them."""
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            if "step" in state:
                state["step"] = torch.as_tensor(state["step"], dtype=torch.float32, device=parameter.device)

    def _move_by_the_host(self, group: dict[str, Any], moving: list[Tensor]) -> None:
        if self.found_inf is None or not bool(self.found_inf):
            self._adamw(group, moving, lr=float(group["lr"]), weight_decay=float(group["weight_decay"]), foreach=True)

    def _adamw(self, group: dict[str, Any], moving: list[Tensor], *, lr: Any, **how: Any) -> None:
        for parameter in moving:
            if not self.state[parameter]:
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter] = {"step": torch.zeros((), device=parameter.device), **zeros}
        states = [self.state[parameter] for parameter in moving]
        beta1, beta2 = group["betas"]
        if isinstance(lr, Tensor) and lr.device.type == "cuda":
            lr = lr.float()  # what the kernel reads
        adamw(
            moving,
            [parameter.grad for parameter in moving if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=lr,
            eps=group["eps"],
            maximize=False,
            **{"weight_decay": 0.0, **how},
        )
