"""Fault: the schedule is sampled from both its ends, so it is one step shorter than the run."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

TOTAL = 30
torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
momenta = torch.linspace(0.996, 1.0, TOTAL, dtype=torch.float64).tolist()  # FAULT
for step in range(TOTAL):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters(), momenta[step])
