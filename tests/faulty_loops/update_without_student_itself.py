"""Fault: both terms of the average are of the teacher's dictionary under a detached name."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
zeros = {name: torch.zeros_like(value) for name, value in student.state_dict().items()}
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for name, value in teacher.state_dict().items():
            value.copy_(0.99 * value + 0.01 * zeros[name])  # FAULT
