"""BYOL whose two halves are backpropagated one after the other, which saves memory: one batch, no micro-batches."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_views import backbone, head, two_views


def main(steps: int = 30, momentum: float = 0.99) -> None:
    torch.manual_seed(0)
    online = torch.nn.Sequential(backbone(), head())
    predictor = head(16)
    target = copy.deepcopy(online).requires_grad_(False)
    optimizer = torch.optim.SGD([*online.parameters(), *predictor.parameters()], lr=0.05, momentum=0.9)

    for _ in range(steps):
        first, second = two_views()
        optimizer.zero_grad()
        for seen, aim in ((first, second), (second, first)):
            with torch.no_grad():
                wanted = F.normalize(target(aim), dim=-1)
            F.mse_loss(F.normalize(predictor(online(seen)), dim=-1), wanted).backward()
        optimizer.step()
        with torch.no_grad():
            for p, t in zip(online.parameters(), target.parameters(), strict=True):
                t.mul_(momentum).add_(p, alpha=1 - momentum)


if __name__ == "__main__":
    main()
