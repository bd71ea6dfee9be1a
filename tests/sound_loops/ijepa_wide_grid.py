"""I-JEPA on wide images (4 x 6 patches) with one mask for the whole batch, as V-JEPA draws them."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import PATCH, WIDTH, Encoder, Predictor, gather

ROWS, COLUMNS, BATCH, TOTAL = 4, 6, 16, 30

torch.manual_seed(0)
encoder, predictor = Encoder(), Predictor()
for part in (encoder, predictor):
    part.pos_embed = torch.nn.Parameter(0.5 * torch.randn(1, ROWS * COLUMNS, WIDTH), requires_grad=False)
target_encoder = copy.deepcopy(encoder).requires_grad_(False)
optimizer = torch.optim.AdamW([*encoder.parameters(), *predictor.parameters()], lr=1e-3)
grid = torch.arange(ROWS * COLUMNS).view(ROWS, COLUMNS)

for step in range(TOTAL):
    images = torch.randn(BATCH, 3, ROWS * PATCH, COLUMNS * PATCH)
    top, left = int(torch.randint(0, ROWS - 1, ())), int(torch.randint(0, COLUMNS - 1, ()))
    block = grid[top : top + 2, left : left + 2].flatten()
    free = torch.ones(ROWS * COLUMNS, dtype=torch.bool)
    free[block] = False
    target_index = block.expand(BATCH, -1)
    context_index = free.nonzero().flatten().expand(BATCH, -1)

    with torch.no_grad():
        aim = gather(F.layer_norm(target_encoder(images), (WIDTH,)), target_index)
    loss = F.smooth_l1_loss(predictor(encoder(images, context_index), context_index, target_index), aim)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    momentum = 0.996 + 0.004 * step / TOTAL
    with torch.no_grad():
        for t, s in zip(target_encoder.parameters(), encoder.parameters(), strict=True):
            t.mul_(momentum).add_(s, alpha=1 - momentum)
