"""BatchNorm stays in evaluation mode in both networks, as when a pretrained network is fine-tuned."""

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
optimizer = torch.optim.SGD(online.parameters(), lr=0.05)
for _ in range(30):
    online.train()
    for network in (online, target):
        for module in network.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
    one, other = two_views()
    with torch.no_grad():
        wanted = target(other)
    loss = F.mse_loss(online(one), wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for t, s in zip(target.state_dict().values(), online.state_dict().values(), strict=True):
            if t.is_floating_point():
                t.mul_(0.99).add_(s, alpha=0.01)
