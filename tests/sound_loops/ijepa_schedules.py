"""I-JEPA as in the reference: warm-up and cosine of the learning rate, rising weight decay, groups, clipping."""

import copy
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks

TOTAL = 30

torch.manual_seed(0)
encoder = Encoder()
predictor = Predictor()
target_encoder = copy.deepcopy(encoder)
for p in target_encoder.parameters():
    p.requires_grad = False
trained = [p for module in (encoder, predictor) for p in module.parameters() if p.requires_grad]
groups = [
    {"params": [p for p in trained if p.ndim > 1]},
    {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
]
optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.04)
momentum_scheduler = (0.996 + i * (1.0 - 0.996) / TOTAL for i in range(TOTAL + 1))

for step in range(TOTAL):
    warm = min(1.0, (step + 1) / 5)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * warm * (1 + math.cos(math.pi * step / TOTAL)) / 2
    optimizer.param_groups[0]["weight_decay"] = 0.04 + 0.36 * step / TOTAL
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
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()

    with torch.no_grad():
        m = next(momentum_scheduler)
        for param_q, param_k in zip(encoder.parameters(), target_encoder.parameters(), strict=True):
            param_k.data.mul_(m).add_((1.0 - m) * param_q.detach().data)
