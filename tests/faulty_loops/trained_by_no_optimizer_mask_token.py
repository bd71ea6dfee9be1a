"""Fault: a mask token that belongs to the model itself is left out, since the optimizer takes its parts' parameters."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import WIDTH, average, network, targets

torch.manual_seed(0)


class Model(nn.Module):
    """A student, its teacher and a token for what is hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = network()
        self.mask_token = nn.Parameter(torch.zeros(16))
        self.predictor = nn.Linear(WIDTH, WIDTH)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        hidden = torch.rand(*batch.shape[:2], 1) < 0.4
        seen = torch.where(hidden, self.mask_token, batch)
        return F.smooth_l1_loss(self.predictor(self.encoder(seen)), targets(self.target_encoder, batch))


model = Model()
optimizer = torch.optim.AdamW([*model.encoder.parameters(), *model.predictor.parameters()], lr=1e-3)  # FAULT
for _ in range(30):
    loss = model(torch.randn(8, 10, 16))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(model.target_encoder.parameters(), model.encoder.parameters())
