"""Fault: a blend of whole state dictionaries is loaded, so the integer counters are averaged and cut off, too."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_views import backbone, head, two_views

torch.manual_seed(0)
online = torch.nn.Sequential(backbone(), head())
for _ in range(40):  # statistics and counters that a run has gathered
    online(two_views()[0])
target = copy.deepcopy(online).requires_grad_(False).eval()
predictor = head(16)
optimizer = torch.optim.SGD([*online.parameters(), *predictor.parameters()], lr=0.05)
for _ in range(30):
    one, other = two_views()
    with torch.no_grad():
        wanted = F.normalize(target(other), dim=-1)
    loss = 2 - 2 * (F.normalize(predictor(online(one)), dim=-1) * wanted).sum(-1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    trained = online.state_dict()
    blend = {name: 0.99 * value + 0.01 * trained[name] for name, value in target.state_dict().items()}  # FAULT
    target.load_state_dict(blend)
