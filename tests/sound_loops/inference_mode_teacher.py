"""The teacher runs under inference_mode and autocast; the student in float64."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, network, teacher_of

torch.manual_seed(0)
student = network().double()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    batch = torch.randn(16, 16, dtype=torch.float64)
    with torch.inference_mode():
        wanted = teacher(batch)
    wanted = wanted.clone()
    loss = F.smooth_l1_loss(student(batch + 0.2 * torch.randn_like(batch)), wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
