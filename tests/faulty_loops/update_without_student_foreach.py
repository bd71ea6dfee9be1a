"""Fault: the second of two list operations lacks its underscore, so its sums are thrown away."""

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
        theirs, mine = list(teacher.parameters()), list(student.parameters())
        torch._foreach_mul_(theirs, 0.996)
        torch._foreach_add(theirs, mine, alpha=0.004)  # FAULT
