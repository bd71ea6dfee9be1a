"""Fault: weights of student and teacher are exchanged for validation, and never exchanged back."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for step in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
    if step % 8 == 7:
        with torch.no_grad():
            for s, t in zip(student.parameters(), teacher.parameters(), strict=True):
                kept = s.clone()
                s.copy_(t)
                t.copy_(kept)  # FAULT
            student(torch.randn(16, 16))
