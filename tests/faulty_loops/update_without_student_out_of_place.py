"""Fault: the sum of the update is computed out of place and thrown away, so the teacher only shrinks."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks

TOTAL = 30

torch.manual_seed(0)
encoder, predictor = Encoder(), Predictor()
target_encoder = copy.deepcopy(encoder).requires_grad_(False)
optimizer = torch.optim.AdamW([*encoder.parameters(), *predictor.parameters()], lr=1e-3)

for step in range(TOTAL):
    images = random_images()
    context_index, target_index = random_masks()
    with torch.no_grad():
        target = gather(F.layer_norm(target_encoder(images), (WIDTH,)), target_index)
    predicted = predictor(encoder(images, context_index), context_index, target_index)
    loss = F.smooth_l1_loss(predicted, target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

    momentum = 0.996 + 0.004 * step / TOTAL
    with torch.no_grad():
        for t, s in zip(target_encoder.parameters(), encoder.parameters(), strict=True):
            t.mul_(momentum).add((1 - momentum) * s)  # FAULT
