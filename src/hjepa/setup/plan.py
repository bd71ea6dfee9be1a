"""Estimate the cost of a run by measuring a few steps, without writing anything."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from hjepa.setup.build import Parts
from hjepa.setup.machine import peak_memory_gb, threads_in_words
from hjepa.setup.timing import time_steps
from hjepa.training.schedules import half_life_images


@dataclass(frozen=True)
class Plan:
    """The estimates that ``--plan`` prints."""

    steps: int
    images: int
    seconds_per_step: float
    images_per_second: float
    hours: float
    peak_memory_gb: float
    context_tokens: int
    target_tokens: int
    level_warmup_steps: int
    momentum_half_life_images: int | None  # None: never, the momentum is 1
    threads: str  # of the processor: how many, and what they do while they wait for each other

    def to_json(self) -> dict[str, Any]:
        """Return all fields by name."""
        return asdict(self)


def plan_of(parts: Parts) -> Plan:
    """Estimate the cost of the whole run; the number of steps in a budget comes from the same measurement."""
    config = parts.resolved.config
    step = parts.step_time or time_steps(parts.trainer, parts.batches, 4)
    total = config.horizon.steps or 0
    half_life = half_life_images(config.ema.momentum, config.optim.batch_size)
    return Plan(
        steps=total,
        images=len(parts.source),
        seconds_per_step=round(step.seconds, 4),
        images_per_second=round(config.optim.batch_size / step.seconds, 1),
        hours=round(total * step.seconds / 3600, 3),
        peak_memory_gb=round(peak_memory_gb(parts.trainer.accelerator.device), 2),
        context_tokens=step.context_tokens,
        target_tokens=step.target_tokens,
        level_warmup_steps=round(config.loss.level_warmup * total),
        momentum_half_life_images=None if math.isinf(half_life) else round(half_life),
        threads=threads_in_words(),
    )
