"""Fixed 2-D sine-cosine position tables for any patch grid."""

import torch
from torch import Tensor


def sincos_2d(width: int, grid: tuple[int, int]) -> Tensor:
    """Return the position table [GH*GW, width] of a grid, in float64, row-major.

    The first half of a row encodes the column, the second half the row; each half holds sines, then
    cosines, at frequencies 1 / 10000^(i / (width/4)) for i < width/4 (Vaswani et al. 2017, section
    3.5, applied per axis as in MAE and I-JEPA). ``width`` must be divisible by 4 (ValueError).
    """
    if width % 4:
        raise ValueError(f"a sine-cosine table needs a width divisible by 4, got {width}")
    half = width // 2
    rows = _sincos_1d(half, torch.arange(grid[0], dtype=torch.float64))  # [GH, width/2]
    columns = _sincos_1d(half, torch.arange(grid[1], dtype=torch.float64))  # [GW, width/2]
    shape = (*grid, half)
    table = torch.cat([columns[None].expand(shape), rows[:, None].expand(shape)], dim=2)  # [GH, GW, width]
    return table.flatten(0, 1)


def _sincos_1d(width: int, positions: Tensor) -> Tensor:
    """Encode scalar positions [N] as [N, width]: sines, then cosines."""
    exponent = torch.arange(width // 2, dtype=torch.float64) / (width // 2)
    angles = torch.outer(positions, 10000.0**-exponent)  # [N, width/2]
    return torch.cat([angles.sin(), angles.cos()], dim=1)
