"""How far a run is on its schedules, also when its number of steps was corrected on the way."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Horizon:
    """Maps an optimizer step to a position on the schedules, which are of ``planned_steps`` steps.

    Without ``corrections`` the position is the step itself. A correction ``(step, rate)`` says that from ``step`` on
    the position moves by ``rate`` with each step: more than 1 where a run had to become shorter than it was planned.
    So every schedule stays continuous, and what lies before a correction is not touched by it, to the last bit.
    """

    total_steps: int
    corrections: tuple[tuple[int, float], ...] = ()

    @property
    def planned_steps(self) -> int:
        """Return the length of the schedules: the position at the last step."""
        return round(self.position(self.total_steps))

    def position(self, step: int) -> float:
        """Return where the schedules are read in a step; the step itself if nothing was corrected before it."""
        position, since, rate = 0.0, 0, 1.0
        for start, then in self.corrections:
            if step <= start:
                break
            position, since, rate = position + rate * (start - since), start, then
        return position + rate * (step - since)

    def corrected(self, step: int, total_steps: int) -> "Horizon":
        """Return the horizon of a run that learns at ``step`` that it will have ``total_steps`` steps.

        What is left of the schedules is spread over the steps that are left. Raises ValueError if the end would lie
        behind the run.
        """
        if total_steps <= step:
            raise ValueError(f"a run at step {step} cannot end at step {total_steps}")
        earlier = tuple(correction for correction in self.corrections if correction[0] < step)
        rate = (self.planned_steps - self.position(step)) / (total_steps - step)
        return Horizon(total_steps, (*earlier, (step, rate)))


def along(horizon: Horizon, schedule: Callable[[float], float], *, ahead: int = 0) -> Callable[[int], float]:
    """Return a schedule of ``planned_steps`` as a function of the optimizer step of a run with this horizon.

    ``ahead`` is 1 for schedules whose value in step s stands at position s + 1 of their curve.
    """
    if not horizon.corrections:
        return schedule
    return lambda step: schedule(horizon.position(step + ahead) - ahead)
