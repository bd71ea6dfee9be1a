"""Learning rate, weight decay, momentum and the levels' weights: pure functions of the optimizer step.

``step`` counts optimizer steps that were actually taken, from 0; it is fractional if the number of steps of the run
was corrected (``training/horizon.py``). The learning rate and weight decay used in step s are those at position s + 1
of their curves, the momentum of step s is that at position s: the released I-JEPA advances these schedules before it
uses them (tests/reference holds its recorded curves).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupCosine:
    """Linear from ``start`` to ``peak`` over the warm-up, then half a cosine to ``final``."""

    start: float
    peak: float
    final: float
    warmup_steps: int
    total_steps: int

    def __call__(self, step: float) -> float:
        """Return the value used in optimizer step ``step``."""
        position = step + 1
        if position < self.warmup_steps:
            return self.start + (self.peak - self.start) * position / self.warmup_steps
        share = (position - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return _half_cosine(self.peak, self.final, share)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from ``base`` to ``final`` over the whole run."""

    base: float
    final: float
    total_steps: int

    def __call__(self, step: float) -> float:
        """Return the value used in optimizer step ``step``."""
        return _half_cosine(self.base, self.final, (step + 1) / self.total_steps)


@dataclass(frozen=True)
class LevelWeights:
    """The weights of the levels' losses, which sum to 1 in every step; deeper levels may come in from below.

    Level 0 counts from the first step. The warm-up is divided equally among the deeper levels, shallow to deep: each
    level's weight rises linearly from 0 in its part and then stays. Without a warm-up all count from the first step.
    """

    weights: tuple[float, ...]  # after the warm-up, in any unit
    warmup_steps: float = 0.0

    def __call__(self, step: float) -> tuple[float, ...]:
        """Return the weights used in optimizer step ``step``."""
        if step >= self.warmup_steps:
            return normalised_weights(self.weights)
        risen = step * (len(self.weights) - 1) / self.warmup_steps  # 1 when level 1 has its weight, 2 when level 2 has
        first, *deeper = self.weights
        return normalised_weights([first, *(w * min(1.0, max(0.0, risen - n)) for n, w in enumerate(deeper))])


def normalised_weights(weights: Sequence[float]) -> tuple[float, ...]:
    """Return weights scaled to sum to 1."""
    return tuple(weight / sum(weights) for weight in weights)


@dataclass(frozen=True)
class EMAScheduler:
    """EMA momentum, the weight of the teacher: ``base_value`` during the warm-up, then towards ``final_value``.

    ``kind`` is ``linear`` (I-JEPA: 0.996 at step 0, 1.0 at the end), ``cosine`` (DINO) or ``constant``
    (V-JEPA 2: ``base_value`` throughout). After the last step the final value stays.
    """

    base_value: float
    final_value: float
    epochs: float
    steps_per_epoch: float
    warmup_epochs: float = 0.0
    kind: str = "linear"

    def __post_init__(self) -> None:
        refuse_momentum(self.base_value, self.final_value)
        if self.kind not in ("linear", "cosine", "constant"):
            raise ValueError(f"momentum kind must be linear, cosine or constant, got {self.kind!r}")

    def __call__(self, step: float) -> float:
        """Return the momentum applied after optimizer step ``step`` (0-based)."""
        if self.kind == "constant":
            return self.base_value
        hold = self.warmup_epochs * self.steps_per_epoch
        span = self.epochs * self.steps_per_epoch - hold
        share = 0.0 if step <= hold else min(1.0, (step - hold) / span) if span > 0 else 1.0
        if self.kind == "cosine":
            return _half_cosine(self.base_value, self.final_value, share)
        return self.base_value + (self.final_value - self.base_value) * share


def refuse_momentum(*values: float) -> None:
    """Raise ValueError for a momentum that is no share."""
    for value in values:
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"momentum is the weight of the teacher and must lie in [0, 1], got {value}")


def half_life_images(momentum: float, batch_size: int) -> float:
    """Return the half-life of the teacher in images; infinite at momentum 1."""
    if momentum >= 1.0:
        return math.inf
    return batch_size * math.log(0.5) / math.log(momentum) if momentum > 0.0 else 0.0


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
