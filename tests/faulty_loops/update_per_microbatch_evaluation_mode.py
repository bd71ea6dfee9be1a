"""Fault: an update for every micro-batch, of a student that is in evaluation mode all the time."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)
student = network().eval()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    optimizer.zero_grad()
    for _ in range(4):
        (loss_of(student, teacher) / 4).backward()
        average(teacher.parameters(), student.parameters())  # FAULT
    optimizer.step()
