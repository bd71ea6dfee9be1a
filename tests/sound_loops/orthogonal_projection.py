"""A layer is projected back to orthogonal matrices by an SVD every second step."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for step in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 2:
        with torch.no_grad():
            left, _, right = torch.linalg.svd(student[2].weight, full_matrices=False)
            student[2].weight.copy_(left @ right)
    average(teacher.parameters(), student.parameters())
