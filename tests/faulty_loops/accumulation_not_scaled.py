"""Fault: the loss of each of four micro-batches is not divided by four."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks

TOTAL = 30
ACCUMULATION = 4

torch.manual_seed(0)
encoder, predictor = Encoder(), Predictor()
target_encoder = copy.deepcopy(encoder).requires_grad_(False)
optimizer = torch.optim.AdamW([*encoder.parameters(), *predictor.parameters()], lr=1e-3)


@torch.no_grad()
def update_target(momentum: float) -> None:
    for target, source in zip(target_encoder.parameters(), encoder.parameters(), strict=True):
        target.mul_(momentum).add_(source, alpha=1 - momentum)


step = 0
for micro_step in range(TOTAL * ACCUMULATION):
    images = random_images(batch=4)
    context_index, target_index = random_masks(batch=4)
    with torch.no_grad():
        target = gather(F.layer_norm(target_encoder(images), (WIDTH,)), target_index)
    predicted = predictor(encoder(images, context_index), context_index, target_index)
    loss = F.smooth_l1_loss(predicted, target)  # FAULT
    loss.backward()

    if (micro_step + 1) % ACCUMULATION == 0:
        optimizer.step()
        optimizer.zero_grad()
        update_target(0.996 + 0.004 * step / TOTAL)
        step += 1
