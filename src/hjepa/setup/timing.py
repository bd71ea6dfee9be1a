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


WARM_UP = 2  # steps: the first ones allocate
MAX_WARM_UP = 100  # steps to record as graphs what can be recorded
QUIET = 8  # steps in a row without a new recording: the rare shapes of masks may come later


def time_steps(trainer: Trainer, batches: Batches, steps: int) -> StepTime:
    """Take steps until they run as they will in training, then time ``steps`` of them; the slowest rank counts.

    Where the step is captured, that is after most shapes of masks have been recorded; there the mean counts, because
    steps run one after the other without the host. On a CPU it is the median: others may use it as well.
    """
    stream, taken, quiet, times = batches(0), 0, 0, []
    trainer.capturing = True
    micro = next(stream)
    while taken < WARM_UP or (trainer.captured is not None and quiet < QUIET and taken < MAX_WARM_UP):
        recorded = 0 if trainer.captured is None else trainer.captured.recordings
        trainer.train_step(micro)
        micro, taken = next(stream), taken + 1
        quiet = 0 if trainer.captured is None or trainer.captured.recordings > recorded else quiet + 1
    trainer.read()  # wait until they are done
    begun = time.perf_counter()
    for _ in range(steps):
        start = time.perf_counter()
        trainer.train_step(micro)
        micro = next(stream)
        if trainer.captured is None:
            trainer.read()
        times.append(time.perf_counter() - start)
    trainer.read()
    mean = (time.perf_counter() - begun) / steps
    seconds = sorted(times)[len(times) // 2] if trainer.captured is None else mean
    trainer.capturing = False
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
