"""Fault: teacher and student share the online patch embedding; only the blocks are averaged."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks


class Embedding(nn.Module):
    """Patches to tokens with positions."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.patch_embed = encoder.patch_embed
        self.pos_embed = encoder.pos_embed

    def forward(self, images: Tensor) -> Tensor:
        return self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed


class Blocks(nn.Module):
    """The transformer over tokens."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.blocks, self.norm = encoder.blocks, encoder.norm

    def forward(self, tokens: Tensor, index: Tensor | None = None) -> Tensor:
        x = tokens if index is None else gather(tokens, index)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


torch.manual_seed(0)
encoder, predictor = Encoder(), Predictor()
embedding, student = Embedding(encoder), Blocks(encoder)
teacher = copy.deepcopy(student).requires_grad_(False)
trained = [*embedding.parameters(), *student.parameters(), *predictor.parameters()]
optimizer = torch.optim.AdamW([p for p in trained if p.requires_grad], lr=1e-3)

for step in range(30):
    images = random_images()
    context_index, target_index = random_masks()
    with torch.no_grad():
        tokens = teacher(embedding(images))  # FAULT
        target = gather(F.layer_norm(tokens, (WIDTH,)), target_index)
    context = student(embedding(images), context_index)
    loss = F.smooth_l1_loss(predictor(context, context_index, target_index), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    momentum = 0.996 + 0.004 * step / 30
    with torch.no_grad():
        for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
            t.mul_(momentum).add_(s, alpha=1 - momentum)
