"""A copy is fine-tuned for evaluation and thrown away, before training and in the middle."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

SOURCE = sys.argv[1]
torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)


def evaluate() -> None:
    copied = copy.deepcopy(teacher if SOURCE == "teacher" else student).requires_grad_(True)
    head = nn.Linear(32, 4)
    tuner = torch.optim.SGD([*copied.parameters(), *head.parameters()], lr=0.1)
    for _ in range(4):
        tuner.zero_grad()
        F.cross_entropy(head(copied(torch.randn(16, 16))), torch.randint(0, 4, (16,))).backward()
        tuner.step()


evaluate()
for step in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
    if step == 9:
        evaluate()
