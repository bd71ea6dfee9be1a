"""Fault: the accumulated gradient is clipped after each of four micro-batches."""

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
trained = [*encoder.parameters(), *predictor.parameters()]
optimizer = torch.optim.AdamW(trained, lr=1e-3)

step = 0
for micro_step in range(TOTAL * ACCUMULATION):
    images = random_images(batch=4)
    context_index, target_index = random_masks(batch=4)
    with torch.no_grad():
        target = gather(F.layer_norm(target_encoder(images), (WIDTH,)), target_index)
    predicted = predictor(encoder(images, context_index), context_index, target_index)
    loss = F.smooth_l1_loss(predicted, target) / ACCUMULATION
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)  # FAULT

    if (micro_step + 1) % ACCUMULATION == 0:
        optimizer.step()
        optimizer.zero_grad()
        momentum = 0.996 + 0.004 * step / TOTAL
        with torch.no_grad():
            for t, s in zip(target_encoder.parameters(), encoder.parameters(), strict=True):
                t.mul_(momentum).add_(s, alpha=1 - momentum)
        step += 1
