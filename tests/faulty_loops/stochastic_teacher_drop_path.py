"""Fault: model.train() puts the teacher into training mode too, where its drop-path is active."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Block, Encoder, Predictor, gather, random_images, random_masks


class DropPath(nn.Module):
    """Leaves a block out for some images of a batch."""

    def __init__(self, block: Block, rate: float) -> None:
        super().__init__()
        self.block = block
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.block(x)
        keep = (torch.rand(len(x), 1, 1) >= self.rate).float() / (1 - self.rate)
        return x + keep * (self.block(x) - x)


class Model(nn.Module):
    """Student, predictor and teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.student = Encoder()
        self.student.blocks = nn.ModuleList(DropPath(block, 0.2) for block in self.student.blocks)
        self.predictor = Predictor()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        context_index, target_index = random_masks(len(images))
        with torch.no_grad():
            target = gather(F.layer_norm(self.teacher(images), (WIDTH,)), target_index)
        predicted = self.predictor(self.student(images, context_index), context_index, target_index)
        return F.smooth_l1_loss(predicted, target)


torch.manual_seed(0)
model = Model()
model.train()  # FAULT
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
for step in range(30):
    loss = model(random_images())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    momentum = 0.996 + 0.004 * step / 30
    with torch.no_grad():
        for t, s in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
            t.mul_(momentum).add_(s, alpha=1 - momentum)
