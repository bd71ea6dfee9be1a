"""The learning rate begins at exactly 0, or stays there for some steps; the momentum goes by step."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

IDLE = int(sys.argv[1])
TOTAL = 30
torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for step in range(TOTAL):
    for group in optimizer.param_groups:
        group["lr"] = 1e-4 * max(0, step - IDLE + 1)
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters(), 0.996 + 0.004 * step / TOTAL)
