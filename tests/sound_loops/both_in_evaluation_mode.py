"""Both encoders are put into evaluation mode at each step, the heads are not, as with frozen dropout."""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import WIDTH, average, loss_of, network, teacher_of

torch.manual_seed(0)
encoder = nn.Sequential(network(), nn.Dropout(0.1), nn.Linear(WIDTH, WIDTH))
target = teacher_of(encoder)
predictor = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1), nn.Linear(WIDTH, WIDTH))
optimizer = torch.optim.AdamW([*encoder.parameters(), *predictor.parameters()], lr=1e-3)
for _ in range(30):
    encoder.eval()
    target.eval()
    loss = loss_of(lambda batch: predictor(encoder(batch)), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(target.parameters(), encoder.parameters())
