"""The last layer of both networks is weight-normalised, and its length is fixed, as in DINO."""

import copy
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import WIDTH, average, loss_of, network

torch.manual_seed(0)
student = nn.Sequential(network(), weight_norm(nn.Linear(WIDTH, WIDTH, bias=False)))
student[1].parametrizations.weight.original0.data.fill_(1)
student[1].parametrizations.weight.original0.requires_grad_(False)
teacher = copy.deepcopy(student).requires_grad_(False)
optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-3)
for step in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    if step < 5:
        student[1].parametrizations.weight.original1.grad = None
    optimizer.step()
    average(teacher.parameters(), student.parameters())
