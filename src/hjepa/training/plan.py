"""What a run will cost: memory estimated before anything is built, memory and time measured on request."""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator

from hjepa.config import Config, Resolved, budget_seconds, derive
from hjepa.data.sources import ImageSource
from hjepa.errors import UserError
from hjepa.training.machine import available_memory_gb, choose_device, peak_memory_gb
from hjepa.training.schedules import half_life_images
from hjepa.training.session import Batches, build_model, build_trainer, mask_sampler
from hjepa.training.trainer import MicroBatch


@dataclass(frozen=True)
class Plan:
    """What ``--plan`` prints."""

    steps: int
    images: int
    seconds_per_step: float
    images_per_second: float
    hours: float
    peak_memory_gb: float
    estimated_memory_gb: float
    context_tokens: int
    target_tokens: int
    momentum_half_life_images: int | None  # None: never, the momentum is 1

    def to_json(self) -> dict[str, Any]:
        """Return all fields by name."""
        return asdict(self)


def estimate_memory_gb(config: Config, processes: int = 1) -> float:
    """Return a rough size of weights, optimizer and activations of one micro-batch, in GiB.

    Activations kept for the backward pass of a transformer block: about 16 values per token and width
    outside attention, and two maps of tokens x tokens per head (plain attention); the target encoder
    keeps none. ``tests/training/test_plan.py`` compares this with a measurement.
    """
    m, optim = config.model, config.optim
    contexts = config.masking.contexts
    masks = mask_sampler(config).sample(0, min(optim.batch_size * contexts, 256), slice(0, 1))
    visible, blocks, size = masks.context.shape[1], *masks.targets.shape[1:]
    images = optim.batch_size // (optim.accumulate * processes)
    value = {"float64": 8, "float32": 4}.get(config.train.precision, 2)
    plain = config.train.attention == "plain"

    def activations(sequences: int, tokens: int, width: int, depth: int, heads: int) -> float:
        inside = 2 * heads * tokens if plain else 0
        return sequences * tokens * depth * (16 * width + inside) * value

    patches = config.grid[0] * config.grid[1]
    tokens_alive = images * patches * m.width * (12 * value + 12)  # the target encoder's widest moment
    encoder = 12 * m.width**2 * m.depth
    predictor = 12 * m.predictor_width**2 * m.predictor_depth
    weights = (encoder * 5 + predictor * 4) * (8 if value == 8 else 4)  # + gradient, two moments, teacher
    total = (
        weights
        + tokens_alive
        + activations(images * contexts, visible, m.width, m.depth, m.heads)
        + activations(
            images * contexts * blocks, visible + size, m.predictor_width, m.predictor_depth, m.predictor_heads
        )
    )
    return total / 2**30


def refuse_too_large(config: Config, processes: int = 1) -> None:
    """Raise UserError if a step would clearly not fit into memory."""
    device = choose_device(config.train.device)
    sharing = processes if device.type == "cpu" else 1  # processes on one machine's CPU share its memory

    def need(parts: int) -> float:
        return sharing * estimate_memory_gb(_with_accumulate(config, parts), processes)

    parts, free = config.optim.accumulate, available_memory_gb(device)
    if need(parts) <= free:
        return
    wanted = need(parts)
    while need(parts) > free and parts * processes < config.optim.batch_size // 2:
        parts *= 2
    fits = need(parts) <= free and config.optim.batch_size % (parts * processes) == 0
    fits = fits and not config.optim.variance_covariance  # which compares all images of a step
    remedy = f"use --optim.accumulate {parts}" if fits else "use a smaller model or image size"
    raise UserError(
        f"optim.batch_size = {config.optim.batch_size}: a step needs about {wanted:.0f} GB and {free:.0f} GB are free; "
        f"{remedy}, or a smaller --optim.batch_size"
    )


def measure_plan(config: Config, source: ImageSource, accelerator: Accelerator, *, steps: int = 4) -> Plan:
    """Take a few real steps without writing anything, and say what the whole run will cost."""
    seconds, micro = _time_steps(config, source, accelerator, steps)
    total = config.train.steps or 0
    half_life = half_life_images(config.ema.momentum, config.optim.batch_size)
    return Plan(
        steps=total,
        images=len(source),
        seconds_per_step=round(seconds, 4),
        images_per_second=round(config.optim.batch_size / seconds, 1),
        hours=round(total * seconds / 3600, 3),
        peak_memory_gb=round(peak_memory_gb(accelerator.device), 2),
        estimated_memory_gb=round(estimate_memory_gb(config), 2),
        context_tokens=micro[0].context_index.shape[1],
        target_tokens=micro[0].target_index.shape[2],
        momentum_half_life_images=None if math.isinf(half_life) else round(half_life),
    )


def keep_budget(
    resolved: Resolved, source: ImageSource, accelerator: Accelerator, *, steps: int = 8, started: float | None = None
) -> Resolved:
    """Turn ``train.budget`` into a number of steps by taking a few; what has its steps is returned as it is.

    ``started`` is what ``time.perf_counter()`` said when the time began to count (None: it has not). A run corrects the
    number on its way (``training/budget.py``).
    """
    train = resolved.config.train
    if train.steps is not None or train.budget is None:
        return resolved
    trial = derive(resolved, {"train.steps": (1000, "while its time is measured")})
    seconds, _micro = _time_steps(trial.config, source, accelerator, steps)
    if accelerator.num_processes > 1:  # the slowest process sets the pace, and all must take the same steps
        seconds = float(accelerator.gather(torch.tensor([seconds], device=accelerator.device)).max())
    gone = 0.0 if started is None else time.perf_counter() - started
    fits = max(1, int((budget_seconds(train.budget) - gone) / seconds))
    return derive(resolved, {"train.steps": (fits, f"{train.budget} at {seconds:.3g} s a step, measured")})


def _time_steps(
    config: Config, source: ImageSource, accelerator: Accelerator, steps: int
) -> tuple[float, list[MicroBatch]]:
    """Return the median seconds of a step, its data included, and the micro-batches of the last."""
    trainer = build_trainer(config, build_model(config), accelerator)
    batches = Batches(config, source, accelerator)(0)
    times, micro = [], []
    for _ in range(steps):
        start = time.perf_counter()
        micro = next(batches)
        trainer.train_step(micro)
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[len(times[1:]) // 2], micro  # the first step allocates


def _with_accumulate(config: Config, parts: int) -> Config:
    return config.model_copy(update={"optim": config.optim.model_copy(update={"accumulate": parts})})
