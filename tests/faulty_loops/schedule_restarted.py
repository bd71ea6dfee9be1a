"""Fault: after resuming, the momentum schedule starts again at step 0 because its counter was not restored."""

import copy
import io
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
optimizer = torch.optim.AdamW([*encoder.parameters(), *predictor.parameters()], lr=1e-3)
parts = {"encoder": encoder, "predictor": predictor, "target": target_encoder, "optimizer": optimizer}


def train(first: int, last: int) -> None:
    for step in range(first, last):
        images = random_images()
        context_index, target_index = random_masks()
        with torch.no_grad():
            target = gather(F.layer_norm(target_encoder(images), (WIDTH,)), target_index)
        predicted = predictor(encoder(images, context_index), context_index, target_index)
        loss = F.smooth_l1_loss(predicted, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            m = 0.996 + 0.004 * step / TOTAL
            for t, p in zip(target_encoder.parameters(), encoder.parameters(), strict=True):
                t.mul_(m).add_(p, alpha=1 - m)


train(0, 10)
file = io.BytesIO()
torch.save({"step": 10} | {name: part.state_dict() for name, part in parts.items()}, file)

file.seek(0)
checkpoint = torch.load(file)
for name, part in parts.items():
    part.load_state_dict(checkpoint[name])
train(0, TOTAL - 10)  # FAULT
