"""Pretrain on your own Dataset: anything with a length that returns images by index.

Run it:  python examples/own_dataset.py
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

import hjepa


class Gratings(Dataset):
    """Stripes at random angles. An item may be a PIL image, an array [H, W, C] or a tensor [C, H, W]."""

    def __init__(self, length: int, first: int = 0) -> None:
        self.length, self.first = length, first
        self.targets = np.arange(length) % 4  # labels are only used by evaluate, never by pretrain

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        random = np.random.default_rng(self.first + index)
        angle = np.pi * self.targets[index] / 4
        y, x = np.mgrid[:32, :32]
        phase = random.uniform(0, 2 * np.pi)
        wave = 0.5 + 0.4 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * random.uniform(0.6, 1.2) + phase)
        noisy = wave[None] * random.uniform(0.3, 1.0, (3, 1, 1)) + random.normal(0, 0.05, (3, 32, 32))
        return torch.from_numpy(noisy.clip(0, 1)).float()  # floats in 0..1; hjepa normalises


def main() -> None:
    """Train for a few steps, probe the encoder, and use it."""
    out = Path(tempfile.mkdtemp()) / "run"
    run = hjepa.pretrain(
        Gratings(2_000),
        out=out,
        recipe="hjepa-tiny",
        model={"width": 96, "depth": 2, "heads": 2},
        optim={"batch_size": 32},
        train={"length": 200},
    )
    print(run.verdict)
    train, test = Gratings(400, first=10_000), Gratings(200, first=20_000)  # other images than those above
    result = hjepa.evaluate(run, train=train, test=test, protocols=["knn"], poolings=["grid4"])
    print(result.conclusion)
    encoder = hjepa.load_encoder(run)
    features = encoder(torch.stack([Gratings(8)[i] for i in range(8)]))
    print("tokens", tuple(features.tokens.shape), "pooled", tuple(features.pooled.shape))
    print("report:", run.report)


if __name__ == "__main__":
    main()
