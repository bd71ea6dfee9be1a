"""Fault: the patch embedding before both encoders is left out of the optimizer's list."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import BATCH, WIDTH, Block, random_images

torch.manual_seed(0)
patch_embed = torch.nn.Conv2d(3, WIDTH, 4, 4)
encoder = torch.nn.Sequential(Block(), Block(), torch.nn.LayerNorm(WIDTH))
target_encoder = copy.deepcopy(encoder).requires_grad_(False)
predictor = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.GELU(), torch.nn.Linear(WIDTH, WIDTH))
optimizer = torch.optim.AdamW([*encoder.parameters(), *predictor.parameters()], lr=1e-3)  # FAULT

for _ in range(30):
    tokens = patch_embed(random_images(BATCH)).flatten(2).transpose(1, 2)
    with torch.no_grad():
        target = F.layer_norm(target_encoder(tokens), (WIDTH,))
    seen = tokens * (torch.rand(len(tokens), tokens.shape[1], 1) < 0.5)
    loss = F.smooth_l1_loss(predictor(encoder(seen)), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for t, s in zip(target_encoder.parameters(), encoder.parameters(), strict=True):
            t.lerp_(s, 0.004)
