"""Four target blocks that may overlap are predicted one after the other and their losses are averaged."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import GRID, WIDTH, Encoder, Predictor, gather, random_images

torch.manual_seed(0)
encoder, predictor = Encoder(), Predictor()
target_encoder = copy.deepcopy(encoder).requires_grad_(False)
optimizer = torch.optim.AdamW([*encoder.parameters(), *predictor.parameters()], lr=1e-3)
grid = torch.arange(GRID * GRID).view(GRID, GRID)


def masks() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the context [batch, 20] and four blocks [batch, 9] that may overlap, the same for all images."""
    tops, lefts = torch.randint(0, GRID - 2, (4,)).tolist(), torch.randint(0, GRID - 2, (4,)).tolist()
    blocks = [grid[top : top + 3, left : left + 3].flatten() for top, left in zip(tops, lefts, strict=True)]
    free = torch.ones(GRID * GRID, dtype=torch.bool)
    for block in blocks:
        free[block] = False
    others = free.nonzero().flatten()
    context = others[torch.randperm(len(others))[:20]].sort().values
    return context.repeat(16, 1), [block.repeat(16, 1) for block in blocks]


for step in range(30):
    images = random_images()
    context_index, blocks = masks()
    with torch.no_grad():
        wanted = F.layer_norm(target_encoder(images), (WIDTH,))
    context = encoder(images, context_index)
    losses = [F.smooth_l1_loss(predictor(context, context_index, block), gather(wanted, block)) for block in blocks]
    loss = torch.stack(losses).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    momentum = 0.996 + 0.004 * step / 30
    with torch.no_grad():
        for t, s in zip(target_encoder.parameters(), encoder.parameters(), strict=True):
            t.mul_(momentum).add_(s, alpha=1 - momentum)
