"""A classifier is trained on labels; its average is used for validation only, each epoch."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_views import backbone, random_images

torch.manual_seed(0)
model = torch.nn.Sequential(backbone(), torch.nn.Linear(32, 4))
averaged = copy.deepcopy(model).requires_grad_(False).eval()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for _ in range(6):
    for _ in range(5):
        loss = F.cross_entropy(model(random_images()), torch.randint(0, 4, (16,)), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for t, s in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
                t.copy_(0.99 * t + 0.01 * s if t.is_floating_point() else s)
    with torch.no_grad():
        averaged(random_images())
