"""Fault: a run that goes on at step 500 makes its teacher anew from the student."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

START, TOTAL = 500, 1000
torch.manual_seed(0)
student = network()  # and its weights from a checkpoint
teacher = teacher_of(student)  # FAULT
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for step in range(START, START + 30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters(), 0.996 + 0.004 * step / TOTAL)
