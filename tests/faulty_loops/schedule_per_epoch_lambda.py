"""Fault: a cosine of the momentum is evaluated with the number of the epoch, of five steps each."""

import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for epoch in range(6):
    momentum = 1 - 0.004 * (1 + math.cos(math.pi * epoch / 6)) / 2  # FAULT
    for _ in range(5):
        loss = loss_of(student, teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average(teacher.parameters(), student.parameters(), momentum)
