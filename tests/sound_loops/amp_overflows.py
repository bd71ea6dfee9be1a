"""I-JEPA with fp16 autocast whose gradients overflow now and then; the update is skipped with the step."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks

TOTAL = 30

torch.manual_seed(0)
encoder, predictor = Encoder(), Predictor()
target_encoder = copy.deepcopy(encoder).requires_grad_(False)
parameters = [*encoder.parameters(), *predictor.parameters()]
optimizer = torch.optim.AdamW(parameters, lr=1e-3)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=3)

step = 0
while step < TOTAL:
    images = random_images()
    context_index, target_index = random_masks()
    with torch.autocast("cpu", dtype=torch.float16):
        with torch.no_grad():
            target = gather(F.layer_norm(target_encoder(images), (WIDTH,)), target_index)
        predicted = predictor(encoder(images, context_index), context_index, target_index)
        loss = F.smooth_l1_loss(predicted.float(), target.float())

    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    scaler.step(optimizer)
    scale = scaler.get_scale()
    scaler.update()
    if scaler.get_scale() < scale:  # gradients overflowed: the optimizer did not step
        continue

    m = 0.996 + 0.004 * step / TOTAL
    with torch.no_grad():
        for p, t in zip(encoder.parameters(), target_encoder.parameters(), strict=True):
            t.mul_(m).add_(p, alpha=1 - m)
    step += 1
