"""Fault: the update is the end of the closure that the optimizer calls, before the step itself."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)


def closure() -> torch.Tensor:
    optimizer.zero_grad()
    loss = loss_of(student, teacher)
    loss.backward()
    average(teacher.parameters(), student.parameters())  # FAULT
    return loss


for _ in range(30):
    optimizer.step(closure)
