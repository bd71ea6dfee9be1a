"""Mean teacher whose class loss and consistency loss are backpropagated separately."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_views import backbone, head, two_views


def main(steps: int = 30, momentum: float = 0.99) -> None:
    torch.manual_seed(0)
    student = torch.nn.Sequential(backbone(), head())
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)

    for _ in range(steps):
        labelled, noisy = two_views()
        labels = torch.randint(0, 4, (len(labelled),))
        optimizer.zero_grad()
        F.cross_entropy(student(labelled)[:, :4], labels).backward()
        with torch.no_grad():
            wanted = teacher(labelled).softmax(-1)
        F.mse_loss(student(noisy).softmax(-1), wanted).backward()
        optimizer.step()
        with torch.no_grad():
            for p, t in zip(student.parameters(), teacher.parameters(), strict=True):
                t.mul_(momentum).add_(p, alpha=1 - momentum)


if __name__ == "__main__":
    main()
