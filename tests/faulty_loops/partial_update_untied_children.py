"""Fault: the update walks through zip of children without its norm, which stands outside the list."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import WIDTH, average, network

torch.manual_seed(0)


class Encoder(nn.Module):
    """Layers and a final norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.last = nn.ModuleList([network(), nn.Linear(WIDTH, WIDTH)]), nn.Linear(WIDTH, WIDTH)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            batch = layer(batch)
        return self.last(batch)


student = Encoder()
teacher = copy.deepcopy(student).requires_grad_(False)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    batch = torch.randn(16, 16)
    with torch.no_grad():
        wanted = teacher(batch)
    loss = F.mse_loss(student(batch + 0.2 * torch.randn_like(batch)), wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.layers.parameters(), student.layers.parameters())  # FAULT
