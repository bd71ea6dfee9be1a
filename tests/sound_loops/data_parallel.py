"""Student and teacher are wrapped in DataParallel, and the update walks through both wrappers."""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)
student = nn.DataParallel(network())
teacher = nn.DataParallel(teacher_of(student.module))
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
