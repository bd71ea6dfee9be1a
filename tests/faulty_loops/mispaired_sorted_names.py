"""Fault: the teacher's twelve blocks are taken in the order of their names, where block 10 stands before block 2."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks

TOTAL = 30

torch.manual_seed(0)
encoder = Encoder(depth=12)
predictor = Predictor()
target_encoder = copy.deepcopy(encoder)
for p in target_encoder.parameters():
    p.requires_grad = False
optimizer = torch.optim.AdamW([*encoder.parameters(), *predictor.parameters()], lr=1e-3, weight_decay=0.05)
momentum_scheduler = (0.996 + i * (1.0 - 0.996) / TOTAL for i in range(TOTAL + 1))

for _step in range(TOTAL):
    images = random_images()
    context_index, target_index = random_masks()

    with torch.no_grad():
        h = target_encoder(images)
        h = F.layer_norm(h, (WIDTH,))
        h = gather(h, target_index)

    z = encoder(images, context_index)
    z = predictor(z, context_index, target_index)
    loss = F.smooth_l1_loss(z, h)

    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

    with torch.no_grad():
        m = next(momentum_scheduler)
        moving = dict(target_encoder.blocks.named_children())
        pairs = [(encoder.patch_embed, target_encoder.patch_embed), (encoder.norm, target_encoder.norm)]
        pairs += zip(encoder.blocks, [moving[name] for name in sorted(moving)], strict=True)  # FAULT
        for online, average in pairs:
            for param_q, param_k in zip(online.parameters(), average.parameters(), strict=True):
                param_k.mul_(m).add_(param_q, alpha=1.0 - m)
