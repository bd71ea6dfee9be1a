"""At step 8 a copy of the student, and one of the teacher, are fine-tuned and thrown away."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import WIDTH, average, loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)


def finetune(source: torch.nn.Module) -> float:
    tuned = copy.deepcopy(source).requires_grad_(True)
    classifier = torch.nn.Linear(WIDTH, 4)
    fast = torch.optim.Adam([*tuned.parameters(), *classifier.parameters()], lr=0.01)
    for _ in range(4):
        loss = F.cross_entropy(classifier(tuned(torch.randn(16, 16))), torch.randint(0, 4, (16,)))
        fast.zero_grad()
        loss.backward()
        fast.step()
    return float(loss)


for step in range(30):
    if step == 8:
        finetune(student)
        finetune(teacher)
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
