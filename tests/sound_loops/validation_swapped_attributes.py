"""For validation the model's two encoders change places, and change back."""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)


class Model(nn.Module):
    """A student and its averaged copy."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = network()
        self.target = teacher_of(self.encoder)

    def exchange(self) -> None:
        self.encoder, self.target = self.target, self.encoder


model = Model()
optimizer = torch.optim.AdamW(model.encoder.parameters(), lr=1e-3)
for step in range(30):
    loss = loss_of(model.encoder, model.target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(model.target.parameters(), model.encoder.parameters())
    if step % 7 == 3:
        model.exchange()
        model.eval()
        with torch.no_grad():
            model.encoder(torch.randn(16, 16))
        model.exchange()
        model.train()
