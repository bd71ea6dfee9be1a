"""The specification of a teacher.

Momentum is the teacher's coefficient m in ``t = m t + (1 - m) s``. Update k belongs to optimizer step k, counted
from 0: it runs after that step in order A, and before or during its forward in B and B'.
"""

import math
from dataclasses import dataclass

from hjepa.audit.specs.checks import check_momentum, is_number, is_whole, refuse

KINDS = ("constant", "linear", "cosine", "linear-then-constant", "ramp", "warm-down-cosine", "frozen", "any")
ORDERS = ("A", "B", "B'")  # those that a specification may allow; the others below are only measured
ORDER_WORDS = {
    "A": "after the optimizer step",
    "B": "before the next forward",
    "B'": "between the student's and the teacher's forward",
    "C": "between the forward and the optimizer step",
    "inside-step": "inside the optimizer step",
    "mixed": "not at the same place in every step",
}
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "kind": KINDS,
    "on_skipped_step": ("allowed", "forbidden"),
    "buffers": ("own", "copy", "ema", "none", "any"),
    "initial": ("equal", "any"),
    "stochastic_teacher": ("allowed", "forbidden"),
    "batchnorm": ("train", "eval", "any"),
    "target_normalisation": ("layer-norm", None),
}


@dataclass(frozen=True)
class Spec:
    """The specification of a teacher.

    ``start`` is the momentum at index 0 of the curve (for a ramp, at its first update), ``end`` its final value,
    ``middle`` the value after the warm-down. ``total_steps`` and ``anneal_steps`` are numbers of optimizer steps;
    if ``total_steps`` is None, length and slope of the schedule are not checked. ``scale`` stretches the schedule
    (ipe_scale), ``cosine_share`` is the fraction of the half cosine that is used, ``first_index`` is the index of
    the curve at update 0. ``batchnorm`` is the mode of the teacher's BatchNorm, ``variants`` are other published
    settings of the method. Raises ValueError in one line that names key, value and fix.
    """

    name: str
    kind: str
    start: float
    end: float
    total_steps: int | None = None
    anneal_steps: int | None = None
    scale: float = 1.0
    orders: frozenset[str] = frozenset({"A"})
    on_skipped_step: str = "allowed"
    buffers: str = "own"
    initial: str = "equal"
    target_normalisation: str | None = None
    stochastic_teacher: str = "forbidden"
    batchnorm: str = "any"
    middle: float | None = None
    cosine_share: float = 1.0
    first_index: int = 0
    source: str = ""
    notes: str = ""
    variants: tuple["Spec", ...] = ()

    def __post_init__(self) -> None:
        for key, values in _CHOICES.items():
            if (value := getattr(self, key)) not in values:
                refuse(key, value, f"use {', '.join(repr(v) for v in values if v)}")
        for key in ("start", "end", "middle"):
            if key != "middle" or self.middle is not None:
                check_momentum(key, getattr(self, key))
        for key in ("total_steps", "anneal_steps"):
            value = getattr(self, key)
            if value is not None and not (is_whole(value) and value >= 1):
                refuse(key, value, "give a number of optimizer steps, 1 or more, or leave it out")
        if not (is_number(self.scale) and 0.0 < self.scale < math.inf):
            refuse("scale", self.scale, "it multiplies the length of the schedule; give a number above 0, such as 1.25")
        if not (is_number(self.cosine_share) and 0.0 < self.cosine_share <= 1.0):
            refuse(
                "cosine_share",
                self.cosine_share,
                "it is the fraction of the half cosine that is used; give a number in (0, 1]",
            )
        if not is_whole(self.first_index):
            refuse("first_index", self.first_index, "give a whole number; 0 is the start of the curve")
        if not self.orders or not self.orders <= set(ORDERS):
            refuse("orders", sorted(self.orders), f"name one or more of {', '.join(ORDERS)}")
        self._check_kind()

    def _check_kind(self) -> None:
        if self.kind in ("constant", "frozen") and self.end != self.start:
            refuse("end", self.end, f"a {self.kind} momentum stays at {self.start}; set that, or kind = 'linear'")
        if self.kind == "frozen" and self.start != 1.0:
            refuse("start", self.start, "a frozen teacher has momentum 1; set 1.0, or kind = 'constant'")
        if self.kind in ("linear-then-constant", "warm-down-cosine") and self.anneal_steps is None:
            refuse("anneal_steps", None, f"kind = {self.kind!r} needs the length of its first part in optimizer steps")
        if self.kind == "ramp" and self.start != self._ramp(0):
            refuse("start", self.start, f"a ramp starts at {self._ramp(0):.6g}; change first_index or end instead")
        if self.kind == "warm-down-cosine":
            if self.middle is None:
                refuse("middle", None, "kind = 'warm-down-cosine' needs the momentum at the end of its warm-down")
            if self.total_steps is not None and (self.anneal_steps or 0) >= self.total_steps:
                refuse("anneal_steps", self.anneal_steps, f"set it below total_steps = {self.total_steps}")

    @property
    def prescribed(self) -> bool:
        """Whether the momentum is prescribed."""
        return self.kind != "any"

    @property
    def starts(self) -> tuple[float, ...]:
        """Return every published start, this one first."""
        return tuple(dict.fromkeys([self.start, *(variant.start for variant in self.variants)]))

    @property
    def summary(self) -> str:
        """The prescribed momentum in a few words."""
        if not self.prescribed:
            return "no momentum"
        others = ", ".join(f"{start:.6g}" for start in self.starts[1:])
        start = f"{self.start:.6g}" + (f" (also published: {others})" if others else "")
        if self.start == self.end and self.kind != "warm-down-cosine":
            return f"{self.kind} {start}"
        middle = f" to {self.middle:.6g}, then" if self.middle is not None else ""
        return f"{self.kind} from {start}{middle} to {self.end:.6g}"

    def momentum(self, update: int) -> float | None:
        """Return the prescribed momentum of update ``update`` (from 0), or None where it is not known."""
        if not self.prescribed or update < 0:
            return None
        if self.kind in ("constant", "frozen"):
            return self.start
        if self.kind == "ramp":
            return self._ramp(update)
        index = max(0, update + self.first_index)
        if self.kind == "warm-down-cosine":
            return self._warm_down_cosine(index)
        horizon = self.anneal_steps if self.kind == "linear-then-constant" else self.total_steps
        if index == 0:
            return self.start
        if horizon is None:
            return None
        done = min(1.0, index / (horizon * self.scale))
        return _half_cosine(self.start, self.end, done) if self.kind == "cosine" else _line(self.start, self.end, done)

    def _ramp(self, update: int) -> float:
        return min(1.0 - 1.0 / (max(0, update + self.first_index) + 1), self.end)

    def _warm_down_cosine(self, index: int) -> float | None:
        assert self.anneal_steps is not None and self.middle is not None  # checked when built
        if index < self.anneal_steps:  # both ends of the line are used, the last one twice
            return _line(self.start, self.middle, index / max(1, self.anneal_steps - 1))
        if self.total_steps is None:
            return None
        done = (index - self.anneal_steps) / (self.total_steps - self.anneal_steps)
        return self.end if done >= 1.0 else _half_cosine(self.middle, self.end, self.cosine_share * done)


def _line(start: float, end: float, done: float) -> float:
    return end if done >= 1.0 else start + (end - start) * done


def _half_cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * done))
