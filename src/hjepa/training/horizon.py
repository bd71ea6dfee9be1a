"""Map steps to positions on the schedules, also after the number of steps was corrected during the run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Horizon:
    """Maps an optimizer step to a position on the schedules, which span ``planned_steps`` steps.

    Without ``corrections`` the position is the step itself. A correction ``(step, rate)`` means that from ``step`` on
    the position advances by ``rate`` per step: more than 1 where a run was shortened. Every schedule stays continuous,
    and everything before a correction stays bit-identical.
    """

    total_steps: int
    corrections: tuple[tuple[int, float], ...] = ()

    @property
    def planned_steps(self) -> int:
        """Return the length of the schedules: the position at the last step."""
        return round(self.position(self.total_steps))

    def position(self, step: int) -> float:
        """Return the position on the schedules at a step; the step itself if there was no correction before it."""
        position, since, rate = 0.0, 0, 1.0
        for start, then in self.corrections:
            if step <= start:
                break
            position, since, rate = position + rate * (start - since), start, then
        return position + rate * (step - since)

    def corrected(self, step: int, total_steps: int) -> "Horizon":
        """Return the horizon of a run whose number of steps is changed to ``total_steps`` at ``step``.

        The rest of the schedules is spread over the remaining steps. Raises ValueError if there are none.
        """
        if total_steps <= step:
            raise ValueError(f"a run at step {step} cannot end at step {total_steps}")
        earlier = tuple(correction for correction in self.corrections if correction[0] < step)
        rate = (self.planned_steps - self.position(step)) / (total_steps - step)
        return Horizon(total_steps, (*earlier, (step, rate)))


def along(horizon: Horizon, schedule: Callable[[float], T], *, ahead: int = 0) -> Callable[[int], T]:
    """Return a schedule over ``planned_steps`` as a function of the optimizer step of a run with this horizon.

    ``ahead`` is 1 for schedules whose value in step s is that at position s + 1 of their curve.
    """
    if not horizon.corrections:
        return schedule
    return lambda step: schedule(horizon.position(step + ahead) - ahead)
