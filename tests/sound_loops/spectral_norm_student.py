"""The networks are spectrally normalised: each training forward moves a buffer of power iterations."""

import copy
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import WIDTH, average, loss_of

torch.manual_seed(0)
student = nn.Sequential(spectral_norm(nn.Linear(16, 48)), nn.GELU(), spectral_norm(nn.Linear(48, WIDTH)))
teacher = copy.deepcopy(student).requires_grad_(False).eval()
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
    for t, s in zip(teacher.buffers(), student.buffers(), strict=True):
        t.copy_(s)
