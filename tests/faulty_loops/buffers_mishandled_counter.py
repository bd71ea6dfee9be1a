"""Fault: the update averages integer counters too, where the result is cut to a whole number."""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)
student = nn.Sequential(network(), nn.BatchNorm1d(32), nn.Linear(32, 32))
teacher = teacher_of(student).eval()
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for step in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    momentum = min(1 - 1 / (step + 1), 0.99)
    average(teacher.parameters(), student.parameters(), momentum)
    for t, s in zip(teacher.buffers(), student.buffers(), strict=True):
        t.copy_(t * momentum + s * (1 - momentum))  # FAULT
