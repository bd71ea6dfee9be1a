"""The schedules on the device: a table of their next values, looked up by the counter of steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hjepa.training.objective import LossWeights
from hjepa.training.schedules import refuse_momentum

WINDOW = 256  # steps in the table: a few milliseconds on the host to fill it


class Rates(NamedTuple):
    """The values of all schedules in one step, on the device."""

    lr: Tensor
    weight_decay: Tensor
    momentum: Tensor
    losses: LossWeights


@dataclass(frozen=True)
class Schedules:
    """Schedules as functions of the step; the EMA momentum belongs to the target encoder."""

    lr: Callable[[int], float]
    weight_decay: Callable[[int], float]
    variance_covariance: Callable[[int], float] | None = None  # weight of the regulariser; None: there is none
    level_weights: Callable[[int], tuple[float, ...]] = lambda _step: (1.0,)  # sum to 1; a single level by default


class RateTable:
    """The values of the schedules for ``WINDOW`` steps from some step on, in buffers that stay where they are.

    The host fills it with the schedules themselves, so a value is the same on every device.
    """

    def __init__(self, device: torch.device, levels: int) -> None:
        self._rows = torch.zeros(WINDOW, 4 + levels, dtype=torch.float64, device=device)
        self._first = torch.zeros((), dtype=torch.int64, device=device)
        self._from = 0
        self._of: tuple[Schedules, Callable[[int], float]] | None = None  # whose values are in it

    def lacks(self, step: int, schedules: Schedules, momentum: Callable[[int], float]) -> bool:
        """Return whether it has to be filled before a step that is at most ``step`` can be taken."""
        return self._of != (schedules, momentum) or not self._from <= step < self._from + WINDOW

    def fill(self, step: int, schedules: Schedules, momentum: Callable[[int], float]) -> None:
        """Fill it from ``step`` on; raises ValueError for a momentum outside [0, 1]."""
        regulariser = schedules.variance_covariance or (lambda _step: 0.0)
        curves = (schedules.lr, schedules.weight_decay, momentum, regulariser)
        steps = range(step, step + WINDOW)
        rows = [[*(float(curve(number)) for curve in curves), *schedules.level_weights(number)] for number in steps]
        refuse_momentum(*(row[2] for row in rows))
        self._rows.copy_(torch.tensor(rows, dtype=torch.float64))
        self._first.fill_(step)
        self._from, self._of = step, (schedules, momentum)

    def at(self, step: Tensor) -> Rates:
        """Return the values used in a step, a scalar on the device; the table has been filled."""
        assert self._of is not None
        row = self._rows.index_select(0, (step - self._first).view(1))[0]
        regulariser = None if self._of[0].variance_covariance is None else row[3]
        return Rates(row[0], row[1], row[2], LossWeights(row[4:], regulariser))
