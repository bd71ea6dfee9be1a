"""Fault: target blocks of different sizes are padded with index 0, and the padding counts in the loss."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks

TOTAL = 30


def padded(target_index: Tensor) -> tuple[Tensor, Tensor]:
    """Shorten some targets at random; return the index, filled up with 0, and what is valid."""
    lengths = torch.randint(6, target_index.shape[1] + 1, (len(target_index), 1))
    valid = torch.arange(target_index.shape[1]) < lengths
    return target_index.where(valid, 0), valid


torch.manual_seed(0)
encoder = Encoder()
predictor = Predictor()
target_encoder = copy.deepcopy(encoder)
for p in target_encoder.parameters():
    p.requires_grad = False
optimizer = torch.optim.AdamW([*encoder.parameters(), *predictor.parameters()], lr=1e-3, weight_decay=0.05)
momentum_scheduler = (0.996 + i * (1.0 - 0.996) / TOTAL for i in range(TOTAL + 1))

for _step in range(TOTAL):
    images = random_images()
    context_index, target_index = random_masks()
    target_index, _valid = padded(target_index)

    with torch.no_grad():
        h = target_encoder(images)
        h = F.layer_norm(h, (WIDTH,))
        h = gather(h, target_index)

    z = encoder(images, context_index)
    z = predictor(z, context_index, target_index)
    loss = F.smooth_l1_loss(z, h)  # FAULT

    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

    with torch.no_grad():
        m = next(momentum_scheduler)
        for param_q, param_k in zip(encoder.parameters(), target_encoder.parameters(), strict=True):
            param_k.data.mul_(m).add_((1.0 - m) * param_q.detach().data)
