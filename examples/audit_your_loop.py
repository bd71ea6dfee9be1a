"""Audit a teacher-student loop: one with a stale update, then the same loop fixed.

Run it:  python examples/audit_your_loop.py
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hjepa.audit import Report, TeacherAudit, specs

STEPS = 20
MOMENTUM = 0.99


class Loop:
    """Predict the teacher's view of a noisy point from the student's; the teacher is an average of the student."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.student = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 32))
        self.predictor = nn.Linear(32, 32)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        trained = [*self.student.parameters(), *self.predictor.parameters()]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-3)

    @torch.no_grad()
    def update_teacher(self) -> None:
        """Move the teacher a hundredth of the way to the student."""
        for t, s in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            t.mul_(MOMENTUM).add_(s, alpha=1 - MOMENTUM)

    def loss(self) -> Tensor:
        """Return the distance between the prediction and the teacher's output."""
        points = torch.randn(128, 16)
        with torch.no_grad():
            target = self.teacher(points + 0.1 * torch.randn_like(points))
        predicted = self.predictor(self.student(points + 0.1 * torch.randn_like(points)))
        return F.mse_loss(predicted, target)

    def train(self) -> None:
        """Train, with the update before the optimizer step, so that the teacher lags by one step."""
        for _ in range(STEPS):
            loss = self.loss()
            self.optimizer.zero_grad()
            loss.backward()
            self.update_teacher()
            self.optimizer.step()


class FixedLoop(Loop):
    """The same loop with the two lines swapped."""

    def train(self) -> None:
        """Train, with the update after the optimizer step."""
        for _ in range(STEPS):
            loss = self.loss()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.update_teacher()


def audited(loop: Loop) -> Report:
    """Train ``loop`` and return the audit's report."""
    spec = specs.custom(momentum=MOMENTUM)
    with TeacherAudit(loop.student, loop.teacher, loop.optimizer, spec, steps=10) as audit:
        loop.train()
    return audit.report()


def main() -> None:
    """Audit both loops and show that the audit changed nothing."""
    print(audited(Loop()).summary())
    print("\nfixed:\n")
    fixed = FixedLoop()
    print(audited(fixed).summary())
    alone = FixedLoop()
    alone.train()
    pairs = zip(fixed.teacher.parameters(), alone.teacher.parameters(), strict=True)
    print("\nbit-identical to the run without audit:", all(torch.equal(a, b) for a, b in pairs))


if __name__ == "__main__":
    main()
