"""Fault: the student's part is added to the first layer only; the rest of the teacher just shrinks."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for name, t in teacher.named_parameters():
            t.mul_(0.99)
            if name.startswith("0."):  # FAULT
                t.add_(student.get_parameter(name), alpha=0.01)
