"""A model walks through the layers of its two encoders itself and picks the visible tokens in between."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks

torch.manual_seed(0)


class Model(nn.Module):
    """Uses its encoders layer by layer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.predictor = Predictor()
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)

    def features(self, encoder: nn.Module, images: torch.Tensor, index: torch.Tensor | None = None) -> torch.Tensor:
        x = encoder.patch_embed(images).flatten(2).transpose(1, 2) + encoder.pos_embed
        x = x if index is None else gather(x, index)
        for block in encoder.blocks:
            x = block(x)
        return encoder.norm(x)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        context_index, target_index = random_masks(len(images))
        with torch.no_grad():
            wanted = gather(F.layer_norm(self.features(self.target_encoder, images), (WIDTH,)), target_index)
        context = self.features(self.encoder, images, context_index)
        return F.smooth_l1_loss(self.predictor(context, context_index, target_index), wanted)


model = Model()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
for step in range(30):
    loss = model(random_images())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    momentum = 0.996 + 0.004 * step / 30
    with torch.no_grad():
        for t, s in zip(model.target_encoder.parameters(), model.encoder.parameters(), strict=True):
            t.mul_(momentum).add_(s, alpha=1 - momentum)
