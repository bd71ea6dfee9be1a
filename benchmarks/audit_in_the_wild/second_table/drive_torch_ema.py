"""torch-ema: an average of a model's parameters, used for validation under ``average_parameters``."""

import torch
from torch import nn
from torch_ema import ExponentialMovingAverage

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
ema = ExponentialMovingAverage(model.parameters(), decay=0.995)
for step in range(24):
    inputs, labels = torch.randn(32, 16), torch.randint(4, (32,))
    loss = nn.functional.cross_entropy(model(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    ema.update()
    if step % 6 == 5:
        with ema.average_parameters(), torch.no_grad():
            model(inputs)
