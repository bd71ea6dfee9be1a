"""BYOL: backbone and projector are averaged, the teacher's BatchNorm runs in training mode as in the paper."""

import copy
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_views import backbone, head, two_views


def regression_loss(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean of 2 - 2 cos."""
    return (2 - 2 * F.cosine_similarity(x, y, dim=-1)).mean()


def main(steps: int = 30, base: float = 0.996) -> None:
    torch.manual_seed(0)
    online, projector, predictor = backbone(), head(), head(16)
    target, target_projector = copy.deepcopy(online), copy.deepcopy(projector)
    target.requires_grad_(False)
    target_projector.requires_grad_(False)
    parameters = [p for module in (online, projector, predictor) for p in module.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4)

    for step in range(steps):
        first, second = two_views()
        predicted_1 = predictor(projector(online(first)))
        predicted_2 = predictor(projector(online(second)))
        with torch.no_grad():
            target_1 = target_projector(target(first))
            target_2 = target_projector(target(second))
        loss = regression_loss(predicted_1, target_2) + regression_loss(predicted_2, target_1)

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        tau = 1 - (1 - base) * (math.cos(math.pi * step / steps) + 1) / 2
        with torch.no_grad():
            for source, moving in ((online, target), (projector, target_projector)):
                for p, t in zip(source.parameters(), moving.parameters(), strict=True):
                    t.mul_(tau).add_(p, alpha=1 - tau)


if __name__ == "__main__":
    main()
