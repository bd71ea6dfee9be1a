"""The encoders are never called, only their methods are."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import WIDTH, average, network

torch.manual_seed(0)


class Encoder(nn.Module):
    """An encoder with the method that everybody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.norm = nn.Linear(16, 16), network(), nn.LayerNorm(WIDTH)

    def encode(self, batch: torch.Tensor) -> torch.Tensor:
        return self.norm(self.body(F.gelu(self.stem(batch))))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.encode(batch).mean(0)


encoder = Encoder()
target = copy.deepcopy(encoder).requires_grad_(False)
optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
for _ in range(30):
    batch = torch.randn(16, 16)
    with torch.no_grad():
        wanted = target.encode(batch)
    loss = F.smooth_l1_loss(encoder.encode(batch + 0.2 * torch.randn_like(batch)), wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(target.parameters(), encoder.parameters())
