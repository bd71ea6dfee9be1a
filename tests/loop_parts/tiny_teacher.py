"""A tiny student with its teacher and one batch's loss, for loops whose point lies elsewhere."""

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 32


def network() -> nn.Sequential:
    """Return a small network: [batch, 16] to [batch, 32]."""
    return nn.Sequential(nn.Linear(16, 48), nn.GELU(), nn.Linear(48, WIDTH))


def teacher_of(student: nn.Module) -> nn.Module:
    """Return a frozen copy."""
    return copy.deepcopy(student).requires_grad_(False)


def targets(teacher: nn.Module, batch: Tensor) -> Tensor:
    """Return what the teacher sees in a batch, normalised."""
    with torch.no_grad():
        return F.layer_norm(teacher(batch), (WIDTH,))


def loss_of(student: nn.Module, teacher: nn.Module, batch: Tensor | None = None) -> Tensor:
    """Return the loss of a batch: the student sees it with noise."""
    batch = torch.randn(16, 16) if batch is None else batch
    wanted = targets(teacher, batch)
    return F.mse_loss(student(batch + 0.2 * torch.randn_like(batch)), wanted)


@torch.no_grad()
def average(teacher: Iterable[Tensor], student: Iterable[Tensor], momentum: float = 0.99) -> None:
    """Move the teacher's tensors towards the student's."""
    for t, s in zip(teacher, student, strict=True):
        t.mul_(momentum).add_(s, alpha=1 - momentum)
