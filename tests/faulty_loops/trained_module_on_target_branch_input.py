"""Fault: a trained embedding feeds the teacher, whose own weights alone are averaged."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, network, targets, teacher_of

LAYER, POSITIONS = sys.argv[1].partition("-")[::2]
torch.manual_seed(0)
embed = nn.Conv1d(1, 16, 4, 4) if LAYER == "conv" else nn.Linear(4, 16)
positions = nn.Parameter(torch.randn(1, 16, 16)) if POSITIONS else None
student = network()
teacher = teacher_of(student)
head = nn.Linear(32, 32)
trained = [*embed.parameters(), *student.parameters(), *head.parameters(), *([] if positions is None else [positions])]
optimizer = torch.optim.AdamW(trained, lr=1e-3)
for _ in range(30):
    signal = torch.randn(8, 64)
    x = embed(signal[:, None]).transpose(1, 2) if LAYER == "conv" else embed(signal.view(8, 16, 4))
    x = x if positions is None else x + positions
    loss = F.mse_loss(head(student(x)), targets(teacher, x))  # FAULT
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
