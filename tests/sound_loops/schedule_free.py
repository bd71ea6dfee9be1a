"""An optimizer that keeps two sets of weights; validation switches the student to the other and back."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)


class TwoSequences(torch.optim.SGD):
    """Gradients are taken at one sequence of weights; evaluation happens at their running mean."""

    def __init__(self, parameters, lr: float) -> None:
        super().__init__(parameters, lr=lr)
        self.parameters = list(self.param_groups[0]["params"])
        self.mean = [p.detach().clone() for p in self.parameters]
        self.kept: list[torch.Tensor] = []
        self.number = 0

    @torch.no_grad()
    def step(self, closure=None):
        found = super().step(closure)
        self.number += 1
        for m, p in zip(self.mean, self.parameters, strict=True):
            m.lerp_(p, 1 / self.number)
        return found

    @torch.no_grad()
    def eval(self) -> None:
        self.kept = [p.detach().clone() for p in self.parameters]
        for p, m in zip(self.parameters, self.mean, strict=True):
            p.copy_(m)

    @torch.no_grad()
    def train(self) -> None:
        for p, kept in zip(self.parameters, self.kept, strict=True):
            p.copy_(kept)


student = network()
teacher = teacher_of(student)
optimizer = TwoSequences(student.parameters(), lr=0.05)
for step in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
    if step % 5 == 4:
        optimizer.eval()
        with torch.no_grad():
            student(torch.randn(16, 16))
        optimizer.train()
