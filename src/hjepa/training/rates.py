"""The schedules on the device: a table of their next values, looked up by the counter of steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hjepa.training.schedules import refuse_momentum

WINDOW = 256  # steps in the table: a few milliseconds on the host to fill it


class Rates(NamedTuple):
    """The values of all schedules in one step, scalars on the device."""

    lr: Tensor
    weight_decay: Tensor
    variance_covariance: Tensor
    momentum: Tensor


@dataclass(frozen=True)
class Schedules:
    """Schedules as functions of the step; the EMA momentum belongs to the target encoder."""

    lr: Callable[[int], float]
    weight_decay: Callable[[int], float]
    variance_covariance: Callable[[int], float] | None = None  # weight of the regulariser; None: there is none


class RateTable:
    """The values of the schedules for ``WINDOW`` steps from some step on, in buffers that stay where they are.

    The host fills it with the schedules themselves, so a value is the same on every device.
    """

    def __init__(self, device: torch.device) -> None:
        self._rows = torch.zeros(WINDOW, len(Rates._fields), dtype=torch.float64, device=device)
        self._first = torch.zeros((), dtype=torch.int64, device=device)
        self._from = 0
        self._of: tuple[Schedules, Callable[[int], float]] | None = None  # whose values are in it

    def lacks(self, step: int, schedules: Schedules, momentum: Callable[[int], float]) -> bool:
        """Return whether it has to be filled before a step that is at most ``step`` can be taken."""
        return self._of != (schedules, momentum) or not self._from <= step < self._from + WINDOW

    def fill(self, step: int, schedules: Schedules, momentum: Callable[[int], float]) -> None:
        """Fill it from ``step`` on; raises ValueError for a momentum outside [0, 1]."""
        regulariser = schedules.variance_covariance or (lambda _step: 0.0)
        curves = (schedules.lr, schedules.weight_decay, regulariser, momentum)
        rows = [[float(curve(number)) for curve in curves] for number in range(step, step + WINDOW)]
        refuse_momentum(*(row[-1] for row in rows))
        self._rows.copy_(torch.tensor(rows, dtype=torch.float64))
        self._first.fill_(step)
        self._from, self._of = step, (schedules, momentum)

    def at(self, step: Tensor) -> Rates:
        """Return the values used in a step, a scalar on the device."""
        return Rates(*self._rows.index_select(0, (step - self._first).view(1))[0].unbind())
