"""Fault: the momentum's schedule is an iterator that a resumed run makes anew."""

import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
with torch.no_grad():  # what 500 steps have made of it
    for p in teacher.parameters():
        p.add_(0.05 * torch.randn_like(p))
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
schedule = (1 - 0.004 * (1 + math.cos(math.pi * step / 1000)) / 2 for step in range(1000))  # FAULT
for _ in range(500, 530):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters(), next(schedule))
