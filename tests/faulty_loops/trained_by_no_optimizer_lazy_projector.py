"""Fault: the projector is made in the first forward, when the optimizer exists already."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_views import backbone, two_views
from torch import Tensor, nn


class Online(nn.Module):
    """A backbone with a projector whose input size is not known before the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = backbone()
        self.projector: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        features = self.backbone(x)
        if self.projector is None:
            self.projector = nn.Sequential(nn.Linear(features.shape[1], 64), nn.ReLU(), nn.Linear(64, 32))
        return self.projector(features)


torch.manual_seed(0)
online = Online()
target = copy.deepcopy(online.backbone).requires_grad_(False)
optimizer = torch.optim.SGD(online.parameters(), lr=0.05)  # FAULT

for _ in range(30):
    one, other = two_views()
    with torch.no_grad():
        wanted = target(other)
    loss = F.mse_loss(online(one), wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for t, s in zip(target.parameters(), online.backbone.parameters(), strict=True):
            t.mul_(0.99).add_(s, alpha=0.01)
