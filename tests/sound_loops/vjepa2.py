"""V-JEPA 2: foreach update with the constant momentum 0.99925, L1 loss."""

import copy
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
optimizer = torch.optim.AdamW([*encoder.parameters(), *predictor.parameters()], lr=1e-3, weight_decay=0.05)
momentum_scheduler = (0.99925 + i * (0.99925 - 0.99925) / TOTAL for i in range(TOTAL + 1))

for _step in range(TOTAL):
    images = random_images()
    context_index, target_index = random_masks()

    with torch.no_grad():
        h = target_encoder(images)
        h = F.layer_norm(h, (WIDTH,))
        h = gather(h, target_index)

    z = encoder(images, context_index)
    z = predictor(z, context_index, target_index)
    loss = F.l1_loss(z, h)

    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

    with torch.no_grad():
        m = next(momentum_scheduler)
        params_q = [p.detach() for p in encoder.parameters()]
        params_k = list(target_encoder.parameters())
        torch._foreach_mul_(params_k, m)
        torch._foreach_add_(params_k, params_q, alpha=1.0 - m)
