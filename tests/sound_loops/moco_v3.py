"""MoCo v3: fixed patch embedding, momentum encoder updated between base and momentum forward, symmetric loss."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder
from tiny_views import augment, head, random_images


class Base(nn.Module):
    """Vision transformer with a projector; the patch embedding is random and fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = Encoder()
        self.vit.patch_embed.requires_grad_(False)
        self.projector = head(WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        return self.projector(self.vit(images).mean(1))


class MoCoV3(nn.Module):
    """Base encoder with predictor, and momentum encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.base_encoder = Base()
        self.predictor = head(16)
        self.momentum_encoder = copy.deepcopy(self.base_encoder).requires_grad_(False)

    @torch.no_grad()
    def _update_momentum_encoder(self, m: float) -> None:
        pairs = zip(self.base_encoder.parameters(), self.momentum_encoder.parameters(), strict=True)
        for param_b, param_m in pairs:
            param_m.data = param_m.data * m + param_b.data * (1.0 - m)

    def contrastive_loss(self, q: Tensor, k: Tensor) -> Tensor:
        logits = F.normalize(q, dim=1) @ F.normalize(k, dim=1).T / 0.2
        return F.cross_entropy(logits, torch.arange(len(logits))) * 0.4

    def forward(self, x1: Tensor, x2: Tensor, m: float) -> Tensor:
        q1 = self.predictor(self.base_encoder(x1))
        q2 = self.predictor(self.base_encoder(x2))
        with torch.no_grad():
            self._update_momentum_encoder(m)
            k1 = self.momentum_encoder(x1)
            k2 = self.momentum_encoder(x2)
        return self.contrastive_loss(q1, k2) + self.contrastive_loss(q2, k1)


torch.manual_seed(0)
model = MoCoV3()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.1)
for _ in range(30):
    images = random_images(size=32)
    loss = model(augment(images), augment(images), 0.99)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
