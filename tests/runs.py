"""Real tiny trainers for tests that look at single steps."""

from collections.abc import Iterator

import numpy as np
import torch

from hjepa.config import Config
from hjepa.data.sources import ArraySource
from hjepa.setup.build import build
from hjepa.training.trainer import MicroBatch, Trainer


def pictures(count: int = 64, size: int = 16, seed: int = 0) -> ArraySource:
    """Return images with structure: blocks of colour, so that something can be predicted."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 255, (count, 4, 4, 3), dtype=np.uint8)
    return ArraySource("pictures", coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2))


def trainer_of(resolved, source=None) -> tuple[Trainer, Iterator[list[MicroBatch]], Config]:
    """Return a trainer, its endless micro-batches, and the completed configuration."""
    parts = build(resolved, source or pictures())
    return parts.trainer, parts.batches(0), parts.resolved.config


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Return whether two sets of tensors are bit-identical."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
