"""Measure the time of a step, and the number of steps that fit into a budget."""

import time
from typing import NamedTuple

import torch

from hjepa.config import Resolved, budget_seconds, derive
from hjepa.training.batches import Batches
from hjepa.training.trainer import Trainer


class StepTime(NamedTuple):
    """The result of timing a few real steps."""

    seconds: float  # per step, including data loading
    context_tokens: int  # V of the last of them
    target_tokens: int  # T


def time_steps(trainer: Trainer, batches: Batches, steps: int) -> StepTime:
    """Take a few steps and return their median time; the slowest rank counts."""
    times, micro, stream = [], [], batches(0)
    for _ in range(steps):
        start = time.perf_counter()
        micro = next(stream)
        trainer.train_step(micro)
        times.append(time.perf_counter() - start)
    seconds = sorted(times[1:])[len(times[1:]) // 2]  # the first step allocates
    accelerator = trainer.accelerator
    if accelerator.num_processes > 1:
        seconds = float(accelerator.gather(torch.tensor([seconds], device=accelerator.device)).max())
    return StepTime(seconds, micro[0].context_index.shape[1], micro[0].target_index.shape[2])


def with_fitting_steps(resolved: Resolved, step: StepTime, started: float | None) -> Resolved:
    """Turn a ``train.length`` that is a time into the number of steps that fit into it.

    ``started`` is ``time.perf_counter()`` at the start of the budget (None: not started). The run corrects the number
    of steps later (``runs/budget.py``).
    """
    budget = resolved.config.train.length
    gone = 0.0 if started is None else time.perf_counter() - started
    fits = max(1, int((budget_seconds(budget) - gone) / step.seconds))
    return derive(resolved, {"horizon.steps": (fits, f"{budget} at {step.seconds:.3g} s per step, measured")})
