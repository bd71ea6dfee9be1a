"""Weights are perturbed along the gradient, differentiated again and put back, without an optimizer class."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, network, targets, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
for _ in range(30):
    batch = torch.randn(16, 16)
    noisy = batch + 0.2 * torch.randn_like(batch)
    wanted = targets(teacher, batch)
    optimizer.zero_grad()
    F.mse_loss(student(noisy), wanted).backward()
    with torch.no_grad():
        norm = torch.stack([p.grad.norm() for p in student.parameters()]).norm()
        moved = [0.05 * p.grad / norm for p in student.parameters()]
        torch._foreach_add_(list(student.parameters()), moved)
    optimizer.zero_grad()
    F.mse_loss(student(noisy), wanted).backward()
    with torch.no_grad():
        torch._foreach_sub_(list(student.parameters()), moved)
    optimizer.step()
    average(teacher.parameters(), student.parameters())
