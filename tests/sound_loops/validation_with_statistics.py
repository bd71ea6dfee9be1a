"""Validation on the averaged weights and statistics of BatchNorm, saved with deepcopy and put back."""

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


def validate() -> None:
    kept = copy.deepcopy(online.state_dict())
    online.load_state_dict(target.state_dict())
    online.eval()
    with torch.no_grad():
        for _ in range(3):
            online(two_views()[0])
    online.load_state_dict(kept)
    online.train()


for step in range(30):
    if step % 5 == 0:
        validate()
    one, other = two_views()
    with torch.no_grad():
        wanted = F.normalize(target(other), dim=-1)
    loss = 2 - 2 * (F.normalize(predictor(online(one)), dim=-1) * wanted).sum(-1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for t, s in zip(target.parameters(), online.parameters(), strict=True):
            t.mul_(0.99).add_(s, alpha=0.01)
        for t, s in zip(target.buffers(), online.buffers(), strict=True):
            t.copy_(s)
