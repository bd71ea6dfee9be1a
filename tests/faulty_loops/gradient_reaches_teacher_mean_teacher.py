"""Fault: the mean teacher is not frozen and its logits are not detached, so that the consistency loss reaches it."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_views import augment, backbone, random_images

CLASSES = 5
LABELLED = 8


def create_model(ema: bool = False) -> nn.Module:
    model = nn.Sequential(backbone(), nn.Linear(32, CLASSES))
    if ema:
        for param in model.parameters():
            param.detach_()
            param.requires_grad = False
    return model


def update_ema_variables(model: nn.Module, ema_model: nn.Module, alpha: float, global_step: int) -> None:
    alpha = min(1 - 1 / (global_step + 1), alpha)
    for ema_param, param in zip(ema_model.parameters(), model.parameters(), strict=True):
        ema_param.data.mul_(alpha).add_(param.data, alpha=1 - alpha)


def labelled_batch() -> tuple[Tensor, Tensor]:
    images = random_images()
    labels = (images[:, 0].mean((1, 2)) * 8).long().clamp(-2, 2) + 2
    return images, labels


def main() -> None:
    torch.manual_seed(0)
    model, ema_model = create_model(), create_model()  # FAULT
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, nesterov=True)
    model.train()
    ema_model.train()
    for global_step in range(30):
        images, labels = labelled_batch()
        ema_logits = ema_model(augment(images))  # FAULT
        logits = model(augment(images))
        class_loss = F.cross_entropy(logits[:LABELLED], labels[:LABELLED])
        consistency_loss = F.mse_loss(logits.softmax(1), ema_logits.softmax(1))
        loss = class_loss + 10.0 * consistency_loss

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update_ema_variables(model, ema_model, 0.999, global_step)


if __name__ == "__main__":
    main()
