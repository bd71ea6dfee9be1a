"""Fault: validate, copied from the training step, updates the teacher after each of its batches."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks

TOTAL = 30

torch.manual_seed(0)
student, predictor = Encoder(drop=0.1), Predictor()
teacher = copy.deepcopy(student).requires_grad_(False).eval()
optimizer = torch.optim.AdamW([*student.parameters(), *predictor.parameters()], lr=1e-3)


@torch.no_grad()
def update_teacher(momentum: float) -> None:
    for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
        t.mul_(momentum).add_(s, alpha=1 - momentum)


def loss_of(images: Tensor) -> Tensor:
    context_index, target_index = random_masks(len(images))
    with torch.no_grad():
        target = gather(F.layer_norm(teacher(images), (WIDTH,)), target_index)
    return F.smooth_l1_loss(predictor(student(images, context_index), context_index, target_index), target)


@torch.no_grad()
def validate(momentum: float, batches: int = 3) -> float:
    student.eval()
    predictor.eval()
    total = 0.0
    for _ in range(batches):
        total += loss_of(random_images()).item()
        update_teacher(momentum)  # FAULT
    student.train()
    predictor.train()
    return total / batches


for step in range(TOTAL):
    momentum = 0.996 + 0.004 * step / TOTAL
    loss = loss_of(random_images())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    update_teacher(momentum)
    if (step + 1) % 5 == 0:
        validate(momentum)
