"""Matrices are trained by Muon and all other parameters by AdamW, behind one step function."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)


class Both:
    """Several optimizers that are used as one."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


student = network()
teacher = teacher_of(student)
matrices = [p for p in student.parameters() if p.ndim == 2]
others = [p for p in student.parameters() if p.ndim != 2]
optimizer = Both(torch.optim.Muon(matrices, lr=1e-3), torch.optim.AdamW(others, lr=1e-3))
for _ in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
