"""For five steps only labels train the student; then the teacher is copied from it and averaging begins."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import WIDTH, average, loss_of, network, teacher_of

torch.manual_seed(0)
student, classifier = network(), torch.nn.Linear(WIDTH, 4)
teacher = teacher_of(student)
optimizer = torch.optim.SGD([*student.parameters(), *classifier.parameters()], lr=0.05)
for step in range(30):
    loss = F.cross_entropy(classifier(student(torch.randn(16, 16))), torch.randint(0, 4, (16,)))
    if step == 5:
        teacher.load_state_dict(student.state_dict())
    if step >= 5:
        loss = loss + loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step >= 5:
        average(teacher.parameters(), student.parameters())
