"""Fault: each update makes a new teacher, a blend of student and teacher, and leaves the old one behind."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

TOTAL = 30

torch.manual_seed(0)
student = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 32))
predictor = nn.Linear(32, 32)
teacher = copy.deepcopy(student).requires_grad_(False)
optimizer = torch.optim.AdamW([*student.parameters(), *predictor.parameters()], lr=1e-3)

for _step in range(TOTAL):
    x = torch.randn(64, 16)
    with torch.no_grad():
        target = teacher(x)
    loss = F.mse_loss(predictor(student(x + 0.1 * torch.randn_like(x))), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

    with torch.no_grad():
        blend = copy.deepcopy(student).requires_grad_(False)
        for average, old in zip(blend.parameters(), teacher.parameters(), strict=True):
            average.mul_(0.01).add_(old, alpha=0.99)
    teacher = blend  # FAULT
