"""Every fifth step the optimizer pulls the weights back to slow ones, inside its step."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)


class Lookahead(torch.optim.Optimizer):
    """Wraps another optimizer."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        self.base, self.number = base, 0
        super().__init__(base.param_groups, {})
        self.slow = [p.detach().clone() for group in base.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure=None):
        found = self.base.step(closure)
        self.number += 1
        if self.number % 5 == 0:
            for slow, p in zip(self.slow, (p for g in self.param_groups for p in g["params"]), strict=True):
                slow.lerp_(p, 0.5)
                p.copy_(slow)
        return found


student = network()
teacher = teacher_of(student)
optimizer = Lookahead(torch.optim.AdamW(student.parameters(), lr=1e-3))
for _ in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
