"""Fault: a trainer clips by value in the method that it calls for every micro-batch."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_views import backbone, head, two_views
from torch import Tensor


class Trainer:
    """Holds both networks and does the training."""

    def __init__(self, micro_batches: int = 2, momentum: float = 0.99) -> None:
        self.micro_batches, self.momentum = micro_batches, momentum
        self.online = torch.nn.Sequential(backbone(), head())
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.optimizer = torch.optim.SGD(self.online.parameters(), lr=0.05)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch."""
        (loss / self.micro_batches).backward()
        torch.nn.utils.clip_grad_value_(self.online.parameters(), 0.01)  # FAULT

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target towards the online network."""
        for t, s in zip(self.target.parameters(), self.online.parameters(), strict=True):
            t.mul_(self.momentum).add_(s, alpha=1 - self.momentum)

    def step(self) -> None:
        """Do one optimizer step."""
        self.optimizer.zero_grad()
        for _ in range(self.micro_batches):
            one, other = two_views()
            with torch.no_grad():
                wanted = F.normalize(self.target(other), dim=-1)
            self.backward(F.mse_loss(F.normalize(self.online(one), dim=-1), wanted))
        self.optimizer.step()
        self.update_target()


if __name__ == "__main__":
    torch.manual_seed(0)
    trainer = Trainer()
    for _ in range(30):
        trainer.step()
