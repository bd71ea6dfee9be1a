"""Fault: gradients are clipped by value after every micro-batch, in a helper."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)


def send_back(loss: torch.Tensor) -> None:
    (loss / 4).backward()
    torch.nn.utils.clip_grad_value_(student.parameters(), 0.01)  # FAULT


for _ in range(30):
    for _ in range(4):
        send_back(loss_of(student, teacher))
    optimizer.step()
    optimizer.zero_grad()
    average(teacher.parameters(), student.parameters())
