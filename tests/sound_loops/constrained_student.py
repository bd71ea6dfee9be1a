"""The student is put back onto a constraint after its step, or before its next forward."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

WAY = sys.argv[1]
torch.manual_seed(0)
student = network()


@torch.no_grad()
def constrain() -> None:
    if WAY == "clipped":
        for p in student.parameters():
            p.clamp_(-0.2, 0.2)
    else:  # prototypes on the sphere
        student[2].weight.copy_(F.normalize(student[2].weight, dim=1))


constrain()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    if WAY == "start_of_step":
        constrain()
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if WAY != "start_of_step":
        constrain()
    average(teacher.parameters(), student.parameters())
