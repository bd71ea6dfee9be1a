"""data2vec 2.0: update before the forward pass, once per step, linear then constant momentum, averaged top blocks."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import Encoder, Predictor, gather, random_images, random_masks


class Transformer(Encoder):
    """An encoder that can return the output of each block."""

    def all_layers(self, images: Tensor) -> list[Tensor]:
        x = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed
        layers = []
        for block in self.blocks:
            x = block(x)
            layers.append(x)
        return layers

    def forward(self, images: Tensor, index: Tensor | None = None, layers: bool = False):
        return self.all_layers(images) if layers else super().forward(images, index)


class Data2Vec(nn.Module):
    """Student with decoder, and the averaged copy that makes the targets."""

    def __init__(self, start: float = 0.9998, end: float = 0.99999, anneal: int = 100_000, top: int = 2) -> None:
        super().__init__()
        self.encoder = Transformer(depth=3)
        self.decoder = Predictor()
        self.ema = copy.deepcopy(self.encoder).requires_grad_(False).eval()
        self.start, self.end, self.anneal, self.top = start, end, anneal, top
        self.num_updates = 0

    @torch.no_grad()
    def set_num_updates(self, num_updates: int) -> None:
        if num_updates <= self.num_updates:
            return
        self.num_updates = num_updates
        share = min(1.0, num_updates / self.anneal)
        decay = self.start + share * (self.end - self.start)
        for p, e in zip(self.encoder.parameters(), self.ema.parameters(), strict=True):
            e.mul_(decay).add_(p.to(torch.float32), alpha=1 - decay)

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        layers = self.ema(images, layers=True)[-self.top :]
        layers = [F.instance_norm(layer.transpose(1, 2)).transpose(1, 2) for layer in layers]
        mean = torch.stack(layers).mean(0)
        return F.layer_norm(mean, mean.shape[-1:])

    def forward(self, images: Tensor) -> Tensor:
        context_index, target_index = random_masks(len(images))
        target = gather(self.targets(images), target_index)
        predicted = self.decoder(self.encoder(images, context_index), context_index, target_index)
        return F.mse_loss(predicted, target)


torch.manual_seed(0)
model = Data2Vec().train()
model.ema.eval()
optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
for update in range(30):
    model.set_num_updates(update)
    loss = model(random_images())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
