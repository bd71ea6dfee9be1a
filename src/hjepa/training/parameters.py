"""Parameter groups and the optimizer, which never contains the target encoder."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hjepa.models.hjepa import HJEPA
from hjepa.training.adamw import AdamW
from hjepa.training.muon import Muon


def parameter_groups(model: HJEPA) -> list[dict[str, Any]]:
    """Split trained parameters into a group with weight decay and one without.

    Biases and 1-D parameters have no weight decay; the 3-D mask token does (as in the released I-JEPA). Frozen
    position embeddings are in neither group.
    """
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for part in (model.context_encoder, model.predictor):
        for name, parameter in part.named_parameters():
            if parameter.requires_grad:
                (plain if parameter.ndim == 1 or "bias" in name else decay).append(parameter)
    return [{"params": decay, "decays": True}, {"params": plain, "decays": False, "weight_decay": 0.0}]


def with_orthogonal(groups: list[dict[str, Any]], model: HJEPA) -> list[dict[str, Any]]:
    """Split the weight matrices of transformer blocks off each group, for Muon."""
    parts = (model.context_encoder, model.predictor)
    named = [pair for part in parts for pair in part.named_parameters()]
    inside = {id(parameter) for name, parameter in named if parameter.ndim == 2 and "blocks." in name}
    halves = (
        group | {"params": [p for p in group["params"] if (id(p) in inside) is wanted], "orthogonal": wanted}
        for group in groups
        for wanted in (True, False)
    )
    return [half for half in halves if half["params"]]


def build_optimizer(
    model: HJEPA,
    *,
    betas: tuple[float, float],
    eps: float = 1e-8,
    kind: Literal["adamw", "muon"] = "adamw",
    products: torch.dtype = torch.float32,
) -> AdamW:
    """Return AdamW over the trained parameters, or Muon; the learning rate is set in every step.

    ``products`` is the dtype of Muon's matrix products.
    """
    groups = parameter_groups(model)
    optimizer: AdamW
    if kind == "muon":
        optimizer = Muon(with_orthogonal(groups, model), betas=betas, eps=eps, products=products)
    else:
        optimizer = AdamW(groups, betas=betas, eps=eps)
    refuse_target_parameters(optimizer, model.target_encoder)
    return optimizer


def refuse_target_parameters(optimizer: Optimizer, target_encoder: nn.Module) -> None:
    """Raise ValueError if the optimizer holds a parameter of the target encoder."""
    names = {id(parameter): name for name, parameter in target_encoder.named_parameters()}
    held = [names[id(p)] for p in trained_parameters(optimizer) if id(p) in names]
    if held:
        raise ValueError(
            f"the optimizer holds {len(held)} parameters of the target encoder (first: {held[0]}); "
            "the target encoder is updated by EMA only, so pass only the context encoder and the predictor"
        )


def set_rates(optimizer: Optimizer, *, lr: Tensor, weight_decay: Tensor) -> None:
    """Set the learning rate, and the weight decay of groups that have one: scalars on the device."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if group["decays"]:
            group["weight_decay"] = weight_decay


def trained_parameters(optimizer: Optimizer) -> list[Tensor]:
    """Return every parameter the optimizer holds."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
