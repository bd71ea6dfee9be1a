"""I-JEPA whose teacher is torch's AveragedModel with an exponential average."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks

TOTAL = 30

torch.manual_seed(0)
encoder = Encoder()
predictor = Predictor()
target_encoder = AveragedModel(encoder, multi_avg_fn=get_ema_multi_avg_fn(0.99))
for p in target_encoder.parameters():
    p.requires_grad = False
optimizer = torch.optim.AdamW([*encoder.parameters(), *predictor.parameters()], lr=1e-3, weight_decay=0.05)

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

    target_encoder.update_parameters(encoder)
