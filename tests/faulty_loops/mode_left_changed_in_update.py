"""Fault: the update puts the student into evaluation mode and leaves it there, before the step or after it."""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

ORDER = sys.argv[1]
torch.manual_seed(0)
student = nn.Sequential(network(), nn.Dropout(0.1), nn.Linear(32, 32))
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)


def update() -> None:
    average(teacher.eval().parameters(), student.eval().parameters())  # FAULT


for _ in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    if ORDER == "before":
        update()
    optimizer.step()
    if ORDER == "after":
        update()
