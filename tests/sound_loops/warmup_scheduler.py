"""A scheduler warms the rate up from exactly 0, with a cosine of the momentum counted by steps."""

import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.05)
warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))
for step in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    warmup.step()
    average(teacher.parameters(), student.parameters(), 1 - 0.004 * (math.cos(math.pi * step / 30) + 1) / 2)
