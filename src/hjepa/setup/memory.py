"""Estimate the memory of a step before anything is built, and refuse what does not fit."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hjepa.config import Config
from hjepa.errors import UserError
from hjepa.masking import MaskSampler
from hjepa.setup.machine import available_memory_gb, choose_device

RECOMPUTE = "use --train.activation_checkpointing on"


class MaskShape(NamedTuple):
    """The numbers of patches in the masks of a step."""

    visible: int  # V
    blocks: int  # K
    size: int  # T


def mask_shape(sampler: MaskSampler, config: Config) -> MaskShape:
    """Return the shape of the masks of the first step."""
    # Counted in contexts: with the released sampler, larger batches of masks have fewer visible patches.
    at_once = min(config.optim.batch_size * config.masking.contexts, 256)
    masks = sampler.sample(0, at_once, slice(0, 1))
    return MaskShape(masks.context.shape[1], *masks.targets.shape[1:])


def estimate_memory_gb(config: Config, masks: MaskShape, processes: int = 1) -> float:
    """Return a rough size of weights, optimizer and activations of one micro-batch, in GiB.

    Activations kept for the backward pass of a transformer block: about 16 values per token and channel
    outside attention, and two tokens x tokens maps per head (plain attention); the target encoder
    keeps none. With activation checkpointing a block keeps its input alone, and one block at a time all of them.
    ``tests/setup/test_plan.py`` compares this with a measurement.
    """
    m, optim = config.model, config.optim
    contexts = config.masking.contexts
    images = optim.batch_size // (optim.accumulate * processes)
    value = {"float64": 8, "float32": 4}.get(config.train.precision, 2)
    plain = config.train.attention == "plain"
    recomputed = config.train.activation_checkpointing == "on"
    residual = max(value, 4)  # between blocks, tokens are not 16-bit

    def activations(sequences: int, tokens: int, width: int, depth: int, heads: int) -> float:
        inside = (16 * width + (2 * heads * tokens if plain else 0)) * value
        return sequences * tokens * (depth * width * residual + inside if recomputed else depth * inside)

    patches = config.grid[0] * config.grid[1]
    tokens_alive = images * patches * m.width * (12 * value + 12)  # the target encoder's widest moment
    encoder = 12 * m.width**2 * m.depth
    predictor = 12 * m.predictor_width**2 * m.predictor_depth
    weights = (encoder * 5 + predictor * 4) * (8 if value == 8 else 4)  # + gradient, two moments, teacher
    queries = images * contexts * masks.blocks
    total = (
        weights
        + tokens_alive
        + activations(images * contexts, masks.visible, m.width, m.depth, m.heads)
        + activations(queries, masks.visible + masks.size, m.predictor_width, m.predictor_depth, m.predictor_heads)
    )
    return total / 2**30


def refuse_too_large(config: Config, masks: MaskShape, processes: int = 1) -> None:
    """Raise UserError if a step would clearly not fit into memory."""
    device = choose_device(config.train.device)
    sharing = processes if device.type == "cpu" else 1  # processes on the same CPU share its memory
    free = available_memory_gb(device)

    def need(config: Config) -> float:
        return sharing * estimate_memory_gb(config, masks, processes)

    if need(config) > free:
        remedy = _remedy(config, lambda config: need(config) <= free, processes)
        raise UserError(
            f"optim.batch_size = {config.optim.batch_size}: a step needs about {need(config):.0f} GB of memory, but "
            f"{free:.0f} GB are free; {remedy}, or a smaller --optim.batch_size"
        )


def _remedy(config: Config, fits: Callable[[Config], bool], processes: int) -> str:
    """Return what makes a step fit into memory: the cheapest of three."""
    batch, parts = config.optim.batch_size, config.optim.accumulate
    if not config.loss.variance_covariance:  # which compares all images of a step
        while parts * processes < batch // 2 and not fits(_with(config, "optim", accumulate=parts)):
            parts *= 2
        if batch % (parts * processes) == 0 and fits(_with(config, "optim", accumulate=parts)):
            return f"use --optim.accumulate {parts}"
    if fits(_with(config, "train", activation_checkpointing="on")):
        return RECOMPUTE
    return "use a smaller model or image size"


def refuse_sizes_beyond_memory(config: Config, channels: int) -> None:
    """Raise UserError if not even two images and their tokens fit, before anything is allocated for them.

    The memory of a full step is estimated later, with masks that would be too large here.
    """
    height, width = config.image_size
    values = 2 * (height * width * channels + config.grid[0] * config.grid[1] * config.model.width)
    need, free = 4 * values / 2**30, available_memory_gb(choose_device(config.train.device))
    if need > free:
        raise UserError(
            f"data.image_size = {height},{width}: two images alone need {need:.0f} GB, but {free:.0f} GB are free; "
            "use a smaller --data.image_size"
        )


@contextlib.contextmanager
def out_of_memory_in_words(config: Config) -> Iterator[None]:
    """Turn a failed allocation into a UserError; any other error passes through."""
    optim = config.optim
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if "out of memory" not in text and "allocate memory" not in text:
            raise
        if config.loss.variance_covariance:
            raise UserError(
                f"out of memory with optim.batch_size = {optim.batch_size}: {RECOMPUTE} or a smaller batch "
                "(it cannot be split, because loss.variance_covariance compares all images of a step)"
            ) from None
        raise UserError(
            f"out of memory with optim.batch_size = {optim.batch_size} in {optim.accumulate} micro-batches: "
            f"use --optim.accumulate {optim.accumulate * 2}; add --resume if the run has saved a checkpoint"
        ) from None


def _with(config: Config, section: str, **values: Any) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})
