"""Fault: the teacher is in eval mode, but the update leaves its BatchNorm statistics as they were at the start."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_views import backbone, head, two_views

torch.manual_seed(0)
student = nn.Sequential(backbone(), head())
predictor = head(16)
teacher = copy.deepcopy(student).requires_grad_(False)
teacher.eval()
optimizer = torch.optim.SGD([*student.parameters(), *predictor.parameters()], lr=0.05, momentum=0.9)

for _ in range(30):
    first, second = two_views()
    with torch.no_grad():
        target = teacher(second)
    loss = 2 - 2 * F.cosine_similarity(predictor(student(first)), target, dim=-1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for s, t in zip(student.parameters(), teacher.parameters(), strict=True):  # FAULT
            t.mul_(0.99).add_(s, alpha=0.01)
