"""The averaged weights live in a list, and the targets come from a frozen network of the same shape."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import loss_of, network

torch.manual_seed(0)


class Average:
    """Weights averaged in a list, as many image generators keep them."""

    def __init__(self, parameters) -> None:
        self.shadow_params = [p.detach().clone() for p in parameters]
        self.kept: list[torch.Tensor] = []
        self.updates = 0

    @torch.no_grad()
    def step(self, parameters) -> None:
        self.updates += 1
        momentum = min(0.999, self.updates / (10 + self.updates))
        for s, p in zip(self.shadow_params, parameters, strict=True):
            s.sub_((1 - momentum) * (s - p))

    def store(self, parameters) -> None:
        self.kept = [p.detach().cpu().clone() for p in parameters]

    def copy_to(self, parameters) -> None:
        for s, p in zip(self.shadow_params, parameters, strict=True):
            p.data.copy_(s.data)

    def restore(self, parameters) -> None:
        for kept, p in zip(self.kept, parameters, strict=True):
            p.data.copy_(kept.data)
        self.kept = []


model = network()
frozen = network().requires_grad_(False)
ema = Average(model.parameters())
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(30):
    loss = loss_of(model, frozen)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    ema.step(model.parameters())
    if step % 6 == 5:
        ema.store(model.parameters())
        ema.copy_to(model.parameters())
        model.eval()
        with torch.no_grad():
            model(torch.randn(16, 16))
        model.train()
        ema.restore(model.parameters())
