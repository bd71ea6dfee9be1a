"""The yardstick for speed and memory: I-JEPA as a plain training loop, with hand-written attention.

No library of ours, no logging, no health measures: what a careful person writes in an afternoon. It does
the work of the recipe ijepa-code-fashion: same sizes, same batch, same numbers of tokens (it is handed
images and masks). Used by fashion_speed.py.
"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, DEPTH, HEADS = 192, 6, 3
NARROW, PREDICTOR_DEPTH = 96, 4
PATCH, SIDE = 4, 8


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


def table(width: int) -> Tensor:
    frequency = 10000 ** -(torch.arange(width // 4) / (width // 4))
    angle = torch.outer(torch.arange(SIDE).float(), frequency)
    axis = torch.cat([angle.sin(), angle.cos()], 1)
    return torch.cat([axis.repeat(SIDE, 1), axis.repeat_interleave(SIDE, 0)], 1)


def pick(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.register_buffer("table", table(WIDTH))
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, images: Tensor, visible: Tensor | None = None) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.table
        x = x if visible is None else pick(x, visible)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Predictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.widen = nn.Linear(WIDTH, NARROW), nn.Linear(NARROW, WIDTH)
        self.mask_token = nn.Parameter(torch.zeros(NARROW))
        self.register_buffer("table", table(NARROW))
        self.blocks = nn.ModuleList(Block(NARROW, HEADS) for _ in range(PREDICTOR_DEPTH))
        self.norm = nn.LayerNorm(NARROW, eps=1e-6)

    def forward(self, context: Tensor, visible: Tensor, targets: Tensor) -> Tensor:
        seen = self.narrow(context) + self.table[visible]
        asked = self.mask_token + self.table[targets.flatten(0, 1)]
        x = torch.cat([seen.repeat_interleave(targets.shape[1], 0), asked.to(seen.dtype)], 1)
        for block in self.blocks:
            x = block(x)
        return self.widen(self.norm(x[:, -targets.shape[2] :])).unflatten(0, targets.shape[:2])


class PlainLoop:
    """Student, predictor, teacher, AdamW; ``step(images, visible, targets)`` does one step."""

    def __init__(self, total_steps: int, *, autocast: torch.dtype | None = torch.bfloat16) -> None:
        self.autocast = autocast
        torch.manual_seed(0)
        self.student, self.predictor = Encoder(), Predictor()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.trained = [*self.student.parameters(), *self.predictor.parameters()]
        decay = [p for p in self.trained if p.ndim > 1]
        plain = [p for p in self.trained if p.ndim == 1]
        groups = [{"params": decay, "weight_decay": 0.04}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3)
        self.number, self.total = 0, total_steps

    def step(self, images: Tensor, visible: Tensor, targets: Tensor) -> float:
        share = self.number / self.total
        lr = 1e-3 * min(1.0, (self.number + 1) / (0.1 * self.total)) * 0.5 * (1 + math.cos(math.pi * share))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast("cpu", self.autocast, enabled=self.autocast is not None):
            with torch.no_grad():
                full = F.layer_norm(self.teacher(images).float(), (WIDTH,))
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
