"""A new optimizer is made at the beginning of every epoch."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
for epoch in range(6):
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3 * 0.8**epoch)
    for _ in range(5):
        loss = loss_of(student, teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average(teacher.parameters(), student.parameters())
