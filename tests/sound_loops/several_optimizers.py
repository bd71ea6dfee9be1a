"""A second optimizer takes over, or every part of the student has its own."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

WAY = sys.argv[1]
torch.manual_seed(0)
student = network()
teacher = teacher_of(student)


def train(optimizers: list[torch.optim.Optimizer], steps: int) -> None:
    for _ in range(steps):
        loss = loss_of(student, teacher)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        average(teacher.parameters(), student.parameters())


if WAY == "takes_over":
    train([torch.optim.SGD(student.parameters(), lr=0.05)], 8)
    train([torch.optim.AdamW(student.parameters(), lr=1e-3)], 20)
else:
    train([torch.optim.AdamW(part.parameters(), lr=1e-3) for part in (student[0], student[2])], 30)
