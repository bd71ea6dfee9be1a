"""A second, slower average of the same student is kept for evaluation at the end."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
slow = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
    average(slow.parameters(), student.parameters(), 0.9998)
