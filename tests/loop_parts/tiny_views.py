"""Tiny parts of siamese methods: a convolutional backbone with BatchNorm, heads, and two views of images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def backbone() -> nn.Sequential:
    """Return a convolutional network: images of any size to 32 features."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def head(inputs: int = 32, outputs: int = 16) -> nn.Sequential:
    """Return a projector or predictor with BatchNorm."""
    return nn.Sequential(nn.Linear(inputs, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, outputs))


def random_images(batch: int = 16, size: int = 16) -> Tensor:
    """Return smooth random images [batch, 3, size, size]."""
    return F.interpolate(torch.randn(batch, 3, 4, 4), size=(size, size), mode="bilinear", align_corners=True)


def augment(images: Tensor) -> Tensor:
    """Return a view: flipped at random, brighter or darker, noisy."""
    if torch.rand(()) < 0.5:
        images = images.flip(-1)
    gain = 0.8 + 0.4 * torch.rand(len(images), 1, 1, 1)
    return gain * images + 0.2 * torch.randn_like(images)


def two_views(batch: int = 16, size: int = 16) -> tuple[Tensor, Tensor]:
    """Return two views of the same new images."""
    images = random_images(batch, size)
    return augment(images), augment(images)
