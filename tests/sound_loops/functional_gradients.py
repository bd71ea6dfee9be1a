"""Gradients come from torch.func.grad and are written into .grad by hand."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, network, targets, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)


def loss_with(weights: dict[str, torch.Tensor], batch: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(functional_call(student, weights, (batch,)), wanted)


for _ in range(30):
    batch = torch.randn(16, 16)
    weights = {name: p.detach() for name, p in student.named_parameters()}
    found = grad(loss_with)(weights, batch, targets(teacher, batch))
    for name, p in student.named_parameters():
        p.grad = found[name]
    optimizer.step()
    average(teacher.parameters(), student.parameters())
