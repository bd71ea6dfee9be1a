"""The features of one level of an encoder, or of all levels, as inputs of a probe."""

from typing import Protocol

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

    @property
    def depth(self) -> int:
        """Return the number of its blocks."""
        ...

    def levels(self, images: Tensor) -> list[Tensor]:
        """Return the cells ``[B, GH_l, GW_l, D]`` of each level."""
        ...


class LevelView:
    """The cells of one level as an encoder's tokens."""

    def __init__(self, encoder: LevelEncoder, number: int) -> None:
        self.encoder, self.number = encoder, number

    def grid(self, images: Tensor) -> Grid:
        """Return the grid of the cells."""
        return cell_grid(self.encoder.grid(images), self.encoder.card_levels[self.number].stride)

    def block_tokens(self, images: Tensor, last: int) -> list[Tensor]:
        """Return the cells as the only block, float32 ``[B, M, D]``."""
        if last != 1:
            raise UserError(
                "last4 needs the last four blocks, but a level is only one: use --pooling avg or grid4, or --level last"
            )
        return [self.encoder.levels(images)[self.number].flatten(1, 2)]


def views_of(encoder: LevelEncoder, level: str) -> list[Encoder]:
    """Return the features that ``--level`` selects: ``last`` (the last block) or the number of a level, from 0.

    ``all`` is every level, plus the last block if no level is taken from it.
    Raises UserError for a level that the encoder does not have.
    """
    levels = encoder.card_levels
    if level == "last":
        return [encoder]
    if level == "all":
        views: list[Encoder] = [LevelView(encoder, number) for number in range(len(levels))]
        return views if encoder.depth in {each.depth for each in levels} else [*views, encoder]
    names = {str(number): each for number, each in enumerate(levels)}
    if level not in names:
        known = ", ".join(f"{number} ({each})" for number, each in names.items())
        raise UserError(f"--level {level}: the levels of this encoder are {known}; choose one of them, last or all")
    return [LevelView(encoder, int(level))]
