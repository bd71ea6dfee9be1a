"""The student trains in evaluation mode: as a pretrained model comes, or left in it by a validation."""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

WAY = sys.argv[1]
torch.manual_seed(0)
student = nn.Sequential(network(), nn.Dropout(0.1), nn.Linear(32, 32))
if WAY == "pretrained":
    student.eval()
teacher = teacher_of(student).eval()
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for step in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
    if WAY == "left" and step % 5 == 4:
        student.eval()
        with torch.no_grad():
            student(torch.randn(16, 16))
