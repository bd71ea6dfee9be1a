"""A supervised loss on one batch is sent back before the consistency loss on another."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import WIDTH, average, loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
classifier = torch.nn.Linear(WIDTH, 4)
teacher = teacher_of(student)
optimizer = torch.optim.SGD([*student.parameters(), *classifier.parameters()], lr=0.05)
for _ in range(30):
    optimizer.zero_grad()
    labels = torch.randint(0, 4, (16,))
    supervised = F.cross_entropy(classifier(student(torch.randn(16, 16))), labels)
    supervised.backward()
    consistency = 0.5 * loss_of(student, teacher, torch.randn(24, 16))
    consistency.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
