"""Accumulation over four batches of an epoch of ten: the last group of an epoch has two."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(10):
    for number in range(10):
        in_group = 4 if number < 8 else 2
        (loss_of(student, teacher) / in_group).backward()
        if number in (3, 7, 9):
            optimizer.step()
            optimizer.zero_grad()
            average(teacher.parameters(), student.parameters())
