"""Levels: which features are predicted, from which depth of the target encoder and at which resolution."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]
PixelTargets = Literal["values", "gradients"]

ORIENTATIONS = 9


class Level(NamedTuple):
    """One level of prediction targets.

    ``depth`` is the number of target encoder blocks that the tokens have passed; 0 means the pixels of a patch, or
    histograms of their gradients (``PixelTargets``). ``stride`` is the side, in patches, of the cells over which tokens
    are averaged.
    """

    depth: int
    stride: int = 1

    def __str__(self) -> str:
        return f"depth {self.depth}, stride {self.stride}"


def last_level(depth: int) -> tuple[Level, ...]:
    """Return the single level of I-JEPA: every patch, after the last of ``depth`` blocks."""
    return (Level(depth),)


def at_least_float32(tokens: Tensor) -> Tensor:
    """Cast half-precision tokens to float32: statistics over many of them lose too much in 16 bits."""
    return tokens if tokens.element_size() >= 4 else tokens.float()


def normalise_targets(tokens: Tensor) -> Tensor:
    """Layer-normalise tokens [..., D] over D without trained parameters.

    eps is PyTorch's default 1e-5, not the 1e-6 of the networks: that is what the released I-JEPA uses.
    """
    return F.layer_norm(tokens, (tokens.shape[-1],))


def patch_pixels(images: Tensor, patch_size: int) -> Tensor:
    """Return the pixels of each patch [B, N, patch_size**2 * C] of images [B, C, H, W], patches in raster order."""
    return F.unfold(images, patch_size, stride=patch_size).transpose(1, 2)


def patch_gradients(images: Tensor, patch_size: int) -> Tensor:
    """Return histograms of the gradients in each patch [B, N, 9 * parts**2 * C] of images [B, C, H, W].

    Histograms of oriented gradients (Dalal and Triggs 2005), used as targets by Wei et al. (2022, arXiv:2112.09133,
    section 3): nine bins of unsigned orientation, weighted by gradient magnitude, per channel and quarter of a patch
    (parts 2; for patches with an odd side, per patch), divided by the norm of the histogram. At the border of the image
    the difference is one-sided. Uniform areas give zeros, because 0.1 (in normalised pixels) is added to the norm.
    """
    parts = _parts(patch_size)
    cells = gradient_histograms(
        images, (images.shape[-2] * parts // patch_size, images.shape[-1] * parts // patch_size)
    )
    return F.pixel_unshuffle(cells.flatten(1, 2), parts).flatten(2).transpose(1, 2)


def gradient_histograms(images: Tensor, grid: Grid) -> Tensor:
    """Return one histogram of gradients per cell of a grid and channel, [B, C, 9, GH, GW], of [B, C, H, W].

    As in ``patch_gradients``; a grid that does not divide the image has cells that overlap by a pixel.
    """
    across = F.pad(images, (1, 1, 0, 0), mode="replicate")
    down = F.pad(images, (0, 0, 1, 1), mode="replicate")
    dx, dy = across[..., 2:] - across[..., :-2], down[..., 2:, :] - down[..., :-2, :]  # [B, C, H, W]
    angle = dy.atan2(dx) % math.pi
    number = (angle * (ORIENTATIONS / math.pi)).long().clamp(0, ORIENTATIONS - 1)  # NaN would be no bin at all
    shape = (len(images), images.shape[1], ORIENTATIONS, *images.shape[-2:])
    votes = images.new_zeros(shape).scatter_(2, number[:, :, None], dx.hypot(dy)[:, :, None])
    cells = F.adaptive_avg_pool2d(votes.flatten(1, 2), grid).unflatten(1, shape[1:3])  # [B, C, 9, GH, GW]
    # Not cells.norm: over a short axis that is not the last one, it takes longer than all of the rest.
    return cells / (cells.square().sum(2, keepdim=True).sqrt() + 0.1)


def _parts(patch_size: int) -> int:
    return 1 if patch_size % 2 else 2


def level_cells(
    level: Level, by_depth: Mapping[int, Tensor], images: Tensor, grid: Grid, pixel_targets: PixelTargets = "values"
) -> Tensor:
    """Return the targets of a level for whole images: layer-normalised cells [B, M, D], in raster order.

    ``by_depth`` holds the encoder's tokens [B, N, D] after some blocks; ``grid`` is the patch grid of ``images``.
    """
    if level.depth:
        tokens = by_depth[level.depth]
    else:
        of_patches = patch_pixels if pixel_targets == "values" else patch_gradients
        tokens = of_patches(images, images.shape[-2] // grid[0])
    return normalise_targets(pool_cells(at_least_float32(tokens), grid, level.stride))


def cell_grid(grid: Grid, stride: int) -> Grid:
    """Return the grid of cells (GH_l, GW_l) that covers a patch grid; the last cells may be smaller."""
    # Not -(-GH // stride): exported graphs round the quotient of negative numbers towards zero.
    return (grid[0] + stride - 1) // stride, (grid[1] + stride - 1) // stride


def pool_cells(tokens: Tensor, grid: Grid, stride: int) -> Tensor:
    """Average patch tokens [B, N, D] over cells of stride x stride patches: [B, M, D], cells in raster order.

    A cell at the border of a grid that the stride does not divide averages the patches it has.
    """
    if stride == 1:
        return tokens
    plane = tokens.transpose(1, 2).unflatten(2, grid)  # [B, D, GH, GW]
    cells = F.avg_pool2d(plane, stride, ceil_mode=True, count_include_pad=False)
    return cells.flatten(2).transpose(1, 2)


def cell_of(patches: Tensor, grid: Grid, stride: int) -> Tensor:
    """Return the raster index of the cell that each patch (raster index, any shape) lies in."""
    if stride == 1:
        return patches
    rows, columns = patches // grid[1], patches % grid[1]
    return rows // stride * cell_grid(grid, stride)[1] + columns // stride


def gather_cells(cells: Tensor, index: Tensor) -> Tensor:
    """Pick cells [B, M, D] at indices [B, K, T]: [B, K, T, D]."""
    flat = index.flatten(1)[..., None].expand(-1, -1, cells.shape[-1])
    return cells.gather(1, flat).unflatten(1, index.shape[1:])


def level_widths(
    levels: Sequence[Level],
    *,
    encoder_width: int,
    patch_size: int,
    channels: int,
    pixel_targets: PixelTargets = "values",
) -> list[int]:
    """Return the width D of each level's targets."""
    of_pixels = patch_size**2 if pixel_targets == "values" else ORIENTATIONS * _parts(patch_size) ** 2
    return [encoder_width if level.depth else of_pixels * channels for level in levels]
