"""Fault: the corner of a target block is drawn below GRID - size, so the last row and column are never predicted."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import GRID, WIDTH, Encoder, Predictor, gather, random_images

TOTAL = 30


def block_masks(batch: int) -> tuple[Tensor, Tensor]:
    """Return the context (what is outside of the block, 24 patches of it) and a target block of 3 x 4."""
    grid = torch.arange(GRID * GRID).view(GRID, GRID)
    contexts, targets = [], []
    for _ in range(batch):
        height, width = (3, 4) if torch.rand(()) < 0.5 else (4, 3)
        top, left = int(torch.randint(0, GRID - height, ())), int(torch.randint(0, GRID - width, ()))  # FAULT
        target = grid[top : top + height, left : left + width].flatten()
        others = torch.tensor(sorted(set(range(GRID * GRID)) - set(target.tolist())))
        contexts.append(others[torch.randperm(len(others))[:24]].sort().values)
        targets.append(target)
    return torch.stack(contexts), torch.stack(targets)


torch.manual_seed(0)
encoder = Encoder()
predictor = Predictor()
target_encoder = copy.deepcopy(encoder)
for p in target_encoder.parameters():
    p.requires_grad = False
optimizer = torch.optim.AdamW([*encoder.parameters(), *predictor.parameters()], lr=1e-3, weight_decay=0.05)
momentum_scheduler = (0.996 + i * (1.0 - 0.996) / TOTAL for i in range(TOTAL + 1))

for _step in range(TOTAL):
    images = random_images()
    context_index, target_index = block_masks(len(images))

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

    with torch.no_grad():
        m = next(momentum_scheduler)
        for param_q, param_k in zip(encoder.parameters(), target_encoder.parameters(), strict=True):
            param_k.data.mul_(m).add_((1.0 - m) * param_q.detach().data)
