"""One level of an encoder, or all of them side by side, as something to probe."""

from typing import Protocol

import torch
from torch import Tensor

from hjepa.errors import UserError
from hjepa.evaluation.features import Encoder
from hjepa.models.levels import Grid, Level, cell_grid


class LevelEncoder(Encoder, Protocol):
    """A frozen encoder that was trained on levels."""

    @property
    def card_levels(self) -> tuple[Level, ...]:
        """Return its levels, finest first."""
        ...

    def levels(self, images: Tensor) -> list[Tensor]:
        """Return the cells ``[B, GH_l, GW_l, D]`` of each level."""
        ...


class LevelView:
    """The cells of one level (``number``), or of all levels side by side on the patch grid (None)."""

    def __init__(self, encoder: LevelEncoder, number: int | None) -> None:
        self.encoder, self.number = encoder, number

    def grid(self, images: Tensor) -> Grid:
        """Return the grid of the cells."""
        patches = self.encoder.grid(images)
        return patches if self.number is None else cell_grid(patches, self.encoder.card_levels[self.number].stride)

    def block_tokens(self, images: Tensor, last: int) -> list[Tensor]:
        """Return the cells as the only block, float32 ``[B, M, D]``."""
        if last != 1:
            raise UserError("last4 pools the last blocks, a level is one: use --pooling avg or grid4, or --level last")
        cells = self.encoder.levels(images)
        if self.number is not None:
            return [cells[self.number].flatten(1, 2)]
        height, width = self.encoder.grid(images)
        wide = [
            level.repeat_interleave(stride, 1)[:, :height].repeat_interleave(stride, 2)[:, :, :width]
            for level, (_depth, stride) in zip(cells, self.encoder.card_levels, strict=True)
        ]
        return [torch.cat(wide, dim=-1).flatten(1, 2)]


def view_of(encoder: LevelEncoder, level: str) -> Encoder:
    """Return what ``--level`` names: ``last`` is the encoder as it is, ``all``, or a level's number from 0.

    Raises UserError for a level that the encoder does not have.
    """
    if level == "last":
        return encoder
    if level == "all":
        return LevelView(encoder, None)
    names = {str(number): each for number, each in enumerate(encoder.card_levels)}
    if level not in names:
        known = ", ".join(f"{number} ({each})" for number, each in names.items())
        raise UserError(f"--level {level}: this encoder has {known}; or use last, or all")
    return LevelView(encoder, int(level))
