"""The gradients of the last layer are cancelled in the first five steps, and weight decay follows a schedule."""

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
    optimizer.param_groups[0]["weight_decay"] = 0.04 + 0.36 * step / 30
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    if step < 5:
        for p in student[2].parameters():
            p.grad = None
    optimizer.step()
    average(teacher.parameters(), student.parameters())
