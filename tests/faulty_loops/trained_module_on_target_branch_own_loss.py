"""Fault: a head that is trained by a loss of its own makes the targets, which are then detached."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import WIDTH, average, network, targets, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
head = nn.Linear(WIDTH, WIDTH)
optimizer = torch.optim.AdamW([*student.parameters(), *head.parameters()], lr=1e-3)
for _ in range(30):
    batch = torch.randn(16, 16)
    wanted = head(targets(teacher, batch))
    spread = F.relu(1 - wanted.std(0)).mean()
    loss = F.mse_loss(student(batch + 0.2 * torch.randn_like(batch)), wanted.detach()) + spread  # FAULT
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
