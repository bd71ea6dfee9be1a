"""I-JEPA whose teacher is timm's ModelEmaV3."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks

TOTAL = 30

torch.manual_seed(0)
encoder = Encoder()
predictor = Predictor()
ema = ModelEmaV3(encoder, decay=0.99)
ema.module.requires_grad_(False)
optimizer = torch.optim.AdamW([*encoder.parameters(), *predictor.parameters()], lr=1e-3, weight_decay=0.05)

for _step in range(TOTAL):
    images = random_images()
    context_index, target_index = random_masks()

    with torch.no_grad():
        h = ema.module(images)
        h = F.layer_norm(h, (WIDTH,))
        h = gather(h, target_index)

    z = encoder(images, context_index)
    z = predictor(z, context_index, target_index)
    loss = F.smooth_l1_loss(z, h)

    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

    ema.update(encoder)
