"""How long to train, in one setting: steps, epochs or a time."""

import re
from typing import Literal, NamedTuple


class Length(NamedTuple):
    """How long to train: a number of steps, epochs or seconds."""

    amount: float
    unit: Literal["steps", "epochs", "seconds"]


_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def parse_length(text: str) -> Length:
    """Return the length that ``2340 steps``, ``300 epochs`` or ``20min`` says; a number alone counts steps.

    Raises ValueError for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(|steps?|epochs?|s|min|h|d)", text.strip())
    amount, unit = (float(match[1]), match[2]) if match else (0.0, "")
    if amount <= 0 or (unit in ("", "step", "steps") and amount != int(amount)):
        raise ValueError("must be a number of steps, of epochs, or a time, such as 2340 steps, 300 epochs or 20min")
    if unit in _SECONDS:
        return Length(amount * _SECONDS[unit], "seconds")
    return Length(amount, "epochs" if unit.startswith("epoch") else "steps")


def budget_seconds(text: str) -> float:
    """Return the seconds of a time such as 90s, 20min or 1.5h; raises ValueError for anything else."""
    length = parse_length(text)
    if length.unit != "seconds":
        raise ValueError("must be a time, such as 90s, 20min, 8h or 2d")
    return length.amount
