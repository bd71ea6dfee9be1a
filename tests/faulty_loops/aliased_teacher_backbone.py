"""Fault: the teacher's wrapper is built around the student's own backbone instead of a copy."""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network

torch.manual_seed(0)


class Wrapper(nn.Module):
    """Student or teacher."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.backbone(batch)


backbone = network()
student, teacher = Wrapper(backbone), Wrapper(backbone)  # FAULT
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
