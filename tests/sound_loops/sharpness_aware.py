"""SAM: the gradient is taken at a point beside the student, to which the student comes back."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

WAY = sys.argv[1]


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation around another optimizer."""

    def __init__(self, parameters: list[torch.Tensor], rho: float = 0.05) -> None:
        super().__init__(parameters, {"rho": rho})
        self.inner = torch.optim.SGD(self.param_groups, lr=0.05, momentum=0.9)
        self.param_groups = self.inner.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["kept"] = p.clone()
                p.add_(group["rho"] * p.grad / (p.grad.norm() + 1e-12))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(self.state[p]["kept"])
        self.inner.step()

    def step(self, closure=None):
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()


torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = SAM(list(student.parameters()))
for _ in range(30):
    batch = torch.randn(16, 16)
    optimizer.zero_grad()
    loss_of(student, teacher, batch).backward()
    if WAY == "two_calls":
        optimizer.first_step()
        loss_of(student, teacher, batch).backward()
        optimizer.second_step()
    else:
        optimizer.step(lambda: loss_of(student, teacher, batch).backward())  # noqa: B023
    average(teacher.parameters(), student.parameters())
