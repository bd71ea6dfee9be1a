"""Each validation makes a new copy of the averaged network and trains a linear probe on it."""

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


def probe() -> None:
    frozen = copy.deepcopy(teacher).eval()
    classifier = torch.nn.Linear(WIDTH, 4)
    fitted = torch.optim.SGD(classifier.parameters(), lr=0.1)
    for _ in range(3):
        with torch.no_grad():
            features = frozen(torch.randn(16, 16))
        loss = F.cross_entropy(classifier(features), torch.randint(0, 4, (16,)))
        fitted.zero_grad()
        loss.backward()
        fitted.step()


for step in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
    if step % 6 == 2:
        probe()
