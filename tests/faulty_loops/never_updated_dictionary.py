"""Fault: the average stands in a dictionary, and nobody calls its update."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import network


class EMA:
    """An average of a model's parameters."""

    def __init__(self, model: nn.Module, decay: float = 0.99) -> None:
        self.decay = decay
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model."""
        for name, p in model.named_parameters():
            self.shadow[name].lerp_(p, 1 - self.decay)


torch.manual_seed(0)
student = network()
ema = EMA(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    batch = torch.randn(16, 16)
    with torch.no_grad():
        wanted = torch.func.functional_call(student, ema.shadow, (batch,))
    loss = F.mse_loss(student(batch), wanted + 0.1)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()  # FAULT
