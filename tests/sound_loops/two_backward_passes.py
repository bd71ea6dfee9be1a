"""Two terms of one loss are sent back one after the other, to save memory."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, network, targets, teacher_of

WAY = sys.argv[1]
torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    views = [torch.randn(16, 16), torch.randn(16, 16)]
    wanted = [targets(teacher, view) for view in views]
    optimizer.zero_grad()
    if WAY == "two_lines":
        F.mse_loss(student(views[0]), wanted[1]).backward()
        F.mse_loss(student(views[1]), wanted[0]).backward()
    else:
        for number in (0, 1):
            F.mse_loss(student(views[number]), wanted[1 - number]).backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
