"""LBFGS calls its closure several times in one step."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, network, targets, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.LBFGS(student.parameters(), lr=0.1, max_iter=4)
for _ in range(30):
    batch = torch.randn(32, 16)
    noisy = batch + 0.2 * torch.randn_like(batch)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(student(noisy), targets(teacher, batch))  # noqa: B023
        loss.backward()
        return loss

    optimizer.step(closure)
    average(teacher.parameters(), student.parameters())
