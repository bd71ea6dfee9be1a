"""Fault: the update waits for the number of batches instead of steps, so every second step has none."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for batch in range(60):
    (loss_of(student, teacher) / 2).backward()
    if batch % 2 == 1:
        optimizer.step()
        optimizer.zero_grad()
    if batch % 4 == 3:
        average(teacher.parameters(), student.parameters())  # FAULT
