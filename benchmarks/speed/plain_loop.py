"""The yardstick: I-JEPA as a plain training loop, written from the paper, as the released code does its work.

Joint predictor, context repeated for every block, attention written out, average in a Python loop. No library of ours,
no logging, no health measures: what a careful person writes in an afternoon. It is handed images and masks, so it has
the same work as the product (arXiv:2301.08243, section 3 and appendix A).
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def table(width: int, side: int) -> Tensor:
    frequency = 10000 ** -(torch.arange(width // 4) / (width // 4))
    angle = torch.outer(torch.arange(side).float(), frequency)
    axis = torch.cat([angle.sin(), angle.cos()], 1)
    return torch.cat([axis.repeat(side, 1), axis.repeat_interleave(side, 0)], 1)


def pick(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


class Encoder(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, patch: int, side: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.register_buffer("table", table(width, side))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor, visible: Tensor | None = None) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.table
        x = x if visible is None else pick(x, visible)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Predictor(nn.Module):
    def __init__(self, outside: int, width: int, depth: int, heads: int, side: int) -> None:
        super().__init__()
        self.narrow, self.widen = nn.Linear(outside, width), nn.Linear(width, outside)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.register_buffer("table", table(width, side))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, context: Tensor, visible: Tensor, targets: Tensor) -> Tensor:
        seen = self.narrow(context) + self.table[visible]
        asked = self.mask_token + self.table[targets.flatten(0, 1)]
        x = torch.cat([seen.repeat_interleave(targets.shape[1], 0), asked.to(seen.dtype)], 1)
        for block in self.blocks:
            x = block(x)
        return self.widen(self.norm(x[:, -targets.shape[2] :])).unflatten(0, targets.shape[:2])


class PlainLoop:
    """Student, predictor, teacher, AdamW; ``step(images, visible, targets)`` does one step."""

    def __init__(
        self,
        *,
        encoder: tuple[int, int, int],
        predictor: tuple[int, int, int],
        patch: int,
        side: int,
        total_steps: int,
        device: torch.device,
        autocast: torch.dtype | None,
    ) -> None:
        """``encoder`` and ``predictor`` are (width, depth, heads); ``side`` is the side of the patch grid."""
        self.autocast, self.device = autocast, device
        torch.manual_seed(0)
        self.student = Encoder(*encoder, patch, side).to(device)
        self.predictor = Predictor(encoder[0], *predictor, side).to(device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        trained = [*self.student.parameters(), *self.predictor.parameters()]
        decay, plain = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim == 1]
        groups = [{"params": decay, "weight_decay": 0.04}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3)
        self.number, self.total = 0, total_steps

    def step(self, images: Tensor, visible: Tensor, targets: Tensor) -> float:
        share = self.number / self.total
        lr = 1e-3 * min(1.0, (self.number + 1) / (0.1 * self.total)) * 0.5 * (1 + math.cos(math.pi * share))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            with torch.no_grad():
                full = self.teacher(images).float()
                full = F.layer_norm(full, (full.shape[-1],))
                wanted = pick(full, targets.flatten(1)).unflatten(1, targets.shape[1:])
            predicted = self.predictor(self.student(images, visible), visible, targets)
        loss = F.smooth_l1_loss(predicted.float(), wanted)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        momentum = 0.996 + 0.004 * share
        with torch.no_grad():
            for t, s in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                t.mul_(momentum).add_(s, alpha=1 - momentum)
        self.number += 1
        return loss.item()
