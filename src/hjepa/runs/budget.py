"""Wall-clock budgets: how many steps fit into the time that is left."""

import time
from collections import deque
from dataclasses import dataclass, field

from hjepa.config import Resolved, parse_length

FIRST_CHECK = 21  # a run audits its first 20 steps against the schedules it began with
CHECKS = 50  # in a run, evenly spread: the first after two per cent
WINDOW = 10  # checks whose pace counts: a machine that others use changes its pace within minutes
TOLERANCE = 0.04  # fraction of the budget by which the end may be off before the number of steps is corrected
NOTICE_THRESHOLD = 0.25  # relative change of the number of steps that is announced; run.json records all changes


@dataclass
class Budget:
    """Tracks the time of a run, and tells after each step how many steps the run should have."""

    seconds: float
    started: float  # time.perf_counter() at the start of the budget
    spent_before: float = 0.0  # seconds, by earlier parts of a resumed run
    marks: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))  # step, seconds spent

    @property
    def spent(self) -> float:
        """Return the seconds spent so far."""
        return self.spent_before + time.perf_counter() - self.started

    def is_due(self, step: int, total_steps: int) -> bool:
        """Return whether the pace is checked after this step; depends on the step numbers alone."""
        return step < total_steps and (step == FIRST_CHECK or step % max(1, total_steps // CHECKS) == 0)

    def fitting_steps(self, step: int, total_steps: int) -> int:
        """Return the number of steps that fits the budget at the current pace; unchanged if it fits already."""
        spent = self.spent
        self.marks.append((step, spent))
        if step < FIRST_CHECK or len(self.marks) < 2:
            return total_steps
        (first, then) = self.marks[0]
        pace = (spent - then) / (step - first)  # seconds per step, including logging and saving
        if abs(spent + pace * (total_steps - step) - self.seconds) <= TOLERANCE * self.seconds:
            return total_steps
        return max(step + 1, step + int((self.seconds - spent) / pace))


def budget_in_force(resolved: Resolved) -> float | None:
    """Return the budget in seconds; None if the number of steps was set, or does not come from the budget.

    A configuration written by a run has both a budget and the resulting number of steps. When another run uses it, the
    number of steps counts, so that the run can be repeated.
    """
    budget = resolved.config.train.length
    if not resolved.origin["horizon.steps"].startswith(f"derived: {budget} "):
        return None
    length = parse_length(budget)
    return length.amount if length.unit == "seconds" else None
