"""Fault: the predictor returns context and target tokens, and the loss is taken over both."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks

TOTAL = 30


class FullPredictor(Predictor):
    """Returns all its tokens: those of the context first, then the predicted ones."""

    def forward(self, context, context_index, target_index):
        positions = self.pos_embed.expand(len(context), -1, -1)
        known = self.embed(context) + gather(positions, context_index)
        asked = self.mask_token + gather(positions, target_index)
        return self.out(self.norm(self.block(torch.cat([known, asked], dim=1))))


torch.manual_seed(0)
encoder = Encoder()
predictor = FullPredictor()
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
        h = gather(h, torch.cat([context_index, target_index], dim=1))  # FAULT

    z = encoder(images, context_index)
    z = predictor(z, context_index, target_index)
    loss = F.smooth_l1_loss(z, h)

    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

    with torch.no_grad():
        m = next(momentum_scheduler)
        for param_q, param_k in zip(encoder.parameters(), target_encoder.parameters(), strict=True):
            param_k.data.mul_(m).add_((1.0 - m) * param_q.detach().data)
