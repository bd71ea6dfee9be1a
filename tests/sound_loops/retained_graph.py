"""Two losses of one forward are sent back one after the other with the graph retained."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, network, targets, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    batch = torch.randn(16, 16)
    wanted = targets(teacher, batch)
    found = student(batch + 0.2 * torch.randn_like(batch))
    optimizer.zero_grad()
    F.mse_loss(found, wanted).backward(retain_graph=True)
    (0.1 * found.var(0).sub(1).square().mean()).backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
