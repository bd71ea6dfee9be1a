"""A tiny I-JEPA: encoder, predictor, masks and images.  The training loops stand in the scripts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GRID = 8  # patches along one side
PATCH = 4  # pixels along one side of a patch
WIDTH = 32
BATCH = 16
CONTEXT = 24  # patches that the context encoder sees


def random_images(batch: int = BATCH) -> Tensor:
    """Return smooth random images [batch, 3, 32, 32]."""
    coarse = torch.randn(batch, 3, 5, 5)
    smooth = F.interpolate(coarse, size=(GRID * PATCH, GRID * PATCH), mode="bilinear", align_corners=True)
    return smooth + 0.1 * torch.randn_like(smooth)


def random_masks(batch: int = BATCH) -> tuple[Tensor, Tensor]:
    """Return indices of context patches [batch, 24] and of a target block [batch, 12], which never overlap."""
    grid = torch.arange(GRID * GRID).view(GRID, GRID)
    contexts, targets = [], []
    for _ in range(batch):
        height, width = (3, 4) if torch.rand(()) < 0.5 else (4, 3)
        top = int(torch.randint(0, GRID - height + 1, ()))
        left = int(torch.randint(0, GRID - width + 1, ()))
        target = grid[top : top + height, left : left + width].flatten()
        free = torch.ones(GRID * GRID, dtype=torch.bool)
        free[target] = False
        others = free.nonzero().flatten()
        contexts.append(others[torch.randperm(len(others))[:CONTEXT]].sort().values)
        targets.append(target)
    return torch.stack(contexts), torch.stack(targets)


def gather(tokens: Tensor, index: Tensor) -> Tensor:
    """Return the tokens [batch, n, width] that stand at ``index`` [batch, n]."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


class Block(nn.Module):
    """A transformer block; ``drop`` is the dropout of both branches."""

    def __init__(self, width: int = WIDTH, drop: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.drop(self.proj(attended))
        return x + self.drop(self.mlp(self.norm2(x)))


class Encoder(nn.Module):
    """A vision transformer that encodes the patches of ``index``, or all of them."""

    def __init__(self, depth: int = 2, width: int = WIDTH, drop: float = 0.0, final_norm: bool = True) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, PATCH, PATCH)
        self.pos_embed = nn.Parameter(0.5 * torch.randn(1, GRID * GRID, width), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, drop) for _ in range(depth))
        self.norm = nn.LayerNorm(width) if final_norm else nn.Identity()

    def forward(self, images: Tensor, index: Tensor | None = None) -> Tensor:
        x = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed
        if index is not None:
            x = gather(x, index)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Predictor(nn.Module):
    """Predicts the tokens at ``target_index`` from the context tokens."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(0.5 * torch.randn(1, GRID * GRID, width), requires_grad=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.embed = nn.Linear(width, width)
        self.block = Block(width)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)

    def forward(self, context: Tensor, context_index: Tensor, target_index: Tensor) -> Tensor:
        positions = self.pos_embed.expand(len(context), -1, -1)
        known = self.embed(context) + gather(positions, context_index)
        asked = self.mask_token + gather(positions, target_index)
        x = self.block(torch.cat([known, asked], dim=1))
        return self.out(self.norm(x[:, known.shape[1] :]))
