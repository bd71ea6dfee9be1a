"""Fault: the projection is replaced after the optimizer was made."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import WIDTH, average, network, targets, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
model = nn.ModuleDict({"student": student, "projection": nn.Linear(WIDTH, WIDTH)})
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
model["projection"] = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))  # FAULT
for _ in range(30):
    batch = torch.randn(16, 16)
    found = model["projection"](student(batch + 0.2 * torch.randn_like(batch)))
    loss = F.mse_loss(found, targets(teacher, batch))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
