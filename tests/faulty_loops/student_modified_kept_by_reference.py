"""Fault: what is kept for after the validation is a dictionary of references, so the average stays in the student."""

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
    if step % 6 == 5:
        kept = student.state_dict()  # FAULT
        student.load_state_dict(teacher.state_dict())
        student.eval()
        with torch.no_grad():
            student(torch.randn(16, 16))
        student.load_state_dict(kept)
        student.train()
