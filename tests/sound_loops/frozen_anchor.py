"""Beside the averaged teacher there is a third equal network that stays as it was."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, network, targets, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
anchor = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    batch = torch.randn(16, 16)
    found = student(batch + 0.2 * torch.randn_like(batch))
    loss = F.mse_loss(found, targets(teacher, batch)) + 0.1 * F.mse_loss(found, targets(anchor, batch))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
