"""ema-pytorch's EMA with the defaults of its README, used as a teacher: update() after every optimizer step."""

import sys

import torch
from ema_pytorch import EMA
from torch.nn.functional import cross_entropy, mse_loss

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 24

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 10))
ema = EMA(net)
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
for _ in range(STEPS):
    inputs, labels = torch.randn(16, 32), torch.randint(10, (16,))
    outputs = net(inputs + 0.1 * torch.randn_like(inputs))
    with torch.no_grad():
        targets = ema(inputs)
    loss = cross_entropy(outputs, labels) + mse_loss(outputs, targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    ema.update()
