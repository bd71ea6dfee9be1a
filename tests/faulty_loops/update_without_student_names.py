"""Fault: the student's part is looked up under a name with the wrapper's prefix and never found."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_views import backbone, head, two_views

torch.manual_seed(0)
online = torch.nn.Sequential(backbone(), head())
target = copy.deepcopy(online).requires_grad_(False)
predictor = head(16)
optimizer = torch.optim.SGD([*online.parameters(), *predictor.parameters()], lr=0.05)


@torch.no_grad()
def update_target(momentum: float) -> None:
    trained = {f"module.{name}": p for name, p in online.named_parameters()}
    for name, p in target.named_parameters():
        p.mul_(momentum)
        if name in trained:  # FAULT
            p.add_(trained[name], alpha=1 - momentum)


for _ in range(30):
    one, other = two_views()
    with torch.no_grad():
        wanted = F.normalize(target(other), dim=-1)
    loss = 2 - 2 * (F.normalize(predictor(online(one)), dim=-1) * wanted).sum(-1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    update_target(0.99)
