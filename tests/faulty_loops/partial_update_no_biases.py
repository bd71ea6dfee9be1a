"""Fault: parameters are chosen by a name that ends in weight, so the biases of the teacher stay as they were."""

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
        online = dict(student.named_parameters())
        for name, average in teacher.named_parameters():
            if name.endswith("weight"):  # FAULT
                average.lerp_(online[name], 0.01)
