"""A time that a run may take, and how many steps fit into what is left of it."""

import time
from collections import deque
from dataclasses import dataclass, field

from hjepa.config import Resolved, parse_length

FIRST_CHECK = 21  # a run audits its first 20 steps against the schedules it began with
CHECKS = 50  # in a run, evenly spread: the first after two per cent
WINDOW = 10  # checks whose pace counts: a machine that others use changes its pace within minutes
TOLERANCE = 0.04  # share of the budget by which the end may be missed before the steps are corrected
WORTH_SAYING = 0.25  # change of the number of steps since it was last said; all changes are in run.json


@dataclass
class Budget:
    """Follows the time of a run: ask it after each step how many steps the run should have."""

    seconds: float
    started: float  # what time.perf_counter() said when the time began to count
    spent_before: float = 0.0  # seconds, by earlier parts of a resumed run
    marks: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))  # step, seconds spent

    @property
    def spent(self) -> float:
        """Return the seconds spent so far."""
        return self.spent_before + time.perf_counter() - self.started

    def is_due(self, step: int, total_steps: int) -> bool:
        """Return whether the pace is looked at after this step: a function of the steps alone."""
        return step < total_steps and (step == FIRST_CHECK or step % max(1, total_steps // CHECKS) == 0)

    def fitting_steps(self, step: int, total_steps: int) -> int:
        """Return how many steps the run should have, judged by its newest pace; the steps it has if they fit."""
        spent = self.spent
        self.marks.append((step, spent))
        if step < FIRST_CHECK or len(self.marks) < 2:
            return total_steps
        (first, then) = self.marks[0]
        pace = (spent - then) / (step - first)  # seconds a step, logging and saving included
        if abs(spent + pace * (total_steps - step) - self.seconds) <= TOLERANCE * self.seconds:
            return total_steps
        return max(step + 1, step + int((self.seconds - spent) / pace))


def budget_in_force(resolved: Resolved) -> float | None:
    """Return the seconds a run may take; None if its number of steps was set, or came from somewhere else.

    The configuration that a run wrote holds both its budget and the steps that came of it: as the configuration of
    another run it says how many steps, so that the run can be repeated.
    """
    budget = resolved.config.train.length
    if not resolved.origin["horizon.steps"].startswith(f"derived: {budget} "):
        return None
    length = parse_length(budget)
    return length.amount if length.unit == "seconds" else None
