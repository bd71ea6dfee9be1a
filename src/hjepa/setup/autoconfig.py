"""Resolve auto settings from the images and the machine, each with its reason."""

from typing import Any

from hjepa.config import Config, Resolved, derive, on_device, parse_length
from hjepa.data.augment import ResizeToInput
from hjepa.data.bad_images import BadImages
from hjepa.data.loader import pixel_statistics
from hjepa.data.sources import FileSource, ImageSource
from hjepa.data.value_range import images_of_more_than_8_bits, measure_value_range
from hjepa.errors import UserError
from hjepa.setup.image_sizes import with_sizes
from hjepa.setup.machine import choose_attention, choose_capture, choose_device, choose_precision
from hjepa.setup.memory import MaskShape, refuse_sizes_beyond_memory


def resolve_auto(resolved: Resolved, source: ImageSource) -> Resolved:
    """Resolve every auto setting except the attention kernel and the number of steps in a budget, which are measured.

    Given values are kept, so the configuration of a run is returned unchanged.
    """
    device = choose_device(resolved.config.train.device)
    resolved = on_device(resolved, device.type)
    bad = BadImages(len(source), resolved.config.data.max_bad)  # met while measuring; training reports them
    resolved = _with_value_range(with_sizes(resolved, source, bad), source, bad)
    config = resolved.config
    values: dict[str, tuple[Any, str]] = {}
    channels = config.data.channels or source.channels
    if config.data.channels is None:
        values["data.channels"] = (channels, "same as the images")
    refuse_sizes_beyond_memory(config, channels)
    if config.data.mean is None or config.data.std is None:
        measured = pixel_statistics(source, resize_of(config, channels), bad=bad)
        reason = f"measured on {min(512, len(source))} images"
        for name, given, value in zip(("mean", "std"), (config.data.mean, config.data.std), measured, strict=True):
            if given is None:
                values[f"data.{name}"] = (value, reason)
    if config.data.workers is None:
        from_files = isinstance(source, FileSource)
        reason = "images are read from files" if from_files else "no files to read"
        values["data.workers"] = (2 if from_files else 0, reason)
    length = parse_length(config.train.length)
    if config.horizon.length is None:
        values["horizon.length"] = (config.train.length, "train.length")
    if config.horizon.steps is None and length.unit == "steps":
        values["horizon.steps"] = (int(length.amount), "train.length")
    elif config.horizon.steps is None and length.unit == "epochs":
        steps = max(1, int(length.amount * len(source) / config.optim.batch_size))
        values["horizon.steps"] = (steps, f"{length.amount:g} epochs of {len(source):,} images")
    precision, reason = choose_precision(config.train.precision, device)
    if precision != config.train.precision:
        values["train.precision"] = (precision, reason)
    if device.type != config.train.device:
        values["train.device"] = (device.type, "best available")
    return derive(resolved, values)


def with_attention(resolved: Resolved, masks: MaskShape) -> Resolved:
    """Choose the attention kernel by timing both at the sizes of this run."""
    train = resolved.config.train
    attention, reason = choose_attention(
        train.attention,
        device=choose_device(train.device),
        precision=train.precision,
        shapes=_attention_shapes(resolved.config, masks),
    )
    return resolved if attention == train.attention else derive(resolved, {"train.attention": (attention, reason)})


def with_capture(resolved: Resolved, processes: int) -> Resolved:
    """Choose whether the step is captured."""
    train = resolved.config.train
    device = choose_device(train.device)
    capture, reason = choose_capture(train.capture, device=device, precision=train.precision, processes=processes)
    return resolved if capture == train.capture else derive(resolved, {"train.capture": (capture, reason)})


def resize_of(config: Config, channels: int | None = None) -> ResizeToInput:
    """Return the deterministic resize policy for images."""
    data = config.data
    return ResizeToInput(config.image_size, channels or data.channels or 3, data.fit, data.value_range)


def _with_value_range(resolved: Resolved, source: ImageSource, bad: BadImages) -> Resolved:
    """Measure the range of values of images of more than 8 bits; without such images it stays auto."""
    data = resolved.config.data
    deep = images_of_more_than_8_bits(source, bad)
    if data.value_range is not None:
        if not deep:
            raise UserError(
                f"data.value_range = {data.value_range[0]:g},{data.value_range[1]:g} is for images of more than 8 bits,"
                f" and {source.name} has none: omit it"
            )
        return resolved
    if not deep:
        return resolved
    measured = measure_value_range(source, deep, bad)
    images = f"{len(deep):,} {'image' if len(deep) == 1 else 'images'}"
    reason = f"0.1 to 99.9 % of the pixels of {images}, clipped" if measured.clips else f"all pixels of {images}"
    return derive(resolved, {"data.value_range": (measured[:2], reason)})


def _attention_shapes(config: Config, masks: MaskShape) -> list[tuple[int, int, int, int]]:
    """Return (sequences, tokens, width, heads) of target, context and predictor for one micro-batch."""
    m, contexts = config.model, config.masking.contexts
    images = min(max(1, config.optim.batch_size // config.optim.accumulate), 64)  # enough to compare the kernels
    patches = config.grid[0] * config.grid[1]
    queries = images * contexts * masks.blocks
    return [
        (images, patches, m.width, m.heads),
        (images * contexts, masks.visible, m.width, m.heads),
        (queries, masks.visible + masks.size, m.predictor_width, m.predictor_heads),
    ]
