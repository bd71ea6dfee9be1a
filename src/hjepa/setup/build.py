"""Build the parts of a run from its settings and images: each part is built once, and validated where it is built."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from hjepa.config import Config, MultiblockMasking, RandomMasking, Resolved, derive
from hjepa.data.alike import refuse_images_all_alike
from hjepa.data.augment import Augment
from hjepa.data.loader import MicroBatchDataset, RankShard
from hjepa.data.resident import ResidentImages, fit_on
from hjepa.data.sources import ImageSource
from hjepa.errors import UserError
from hjepa.masking import MaskSampler, MaskSettings, MultiBlockSampler, RandomPatchSampler, ReferenceSampler
from hjepa.models.encoder import set_attention
from hjepa.models.hjepa import HJEPA, build_hjepa, initialise_hjepa
from hjepa.models.levels import Level
from hjepa.models.recompute import set_activation_checkpointing
from hjepa.setup.accelerator import broadcast_config, start_accelerator
from hjepa.setup.autoconfig import resize_of, resolve_auto, with_attention, with_capture
from hjepa.setup.machine import autocast_dtype, available_memory_gb, grad_scaler
from hjepa.setup.memory import MaskShape, mask_shape, refuse_too_large
from hjepa.setup.timing import StepTime, time_steps, with_fitting_steps
from hjepa.training.batches import Batches
from hjepa.training.capture import CudaGraphs
from hjepa.training.horizon import Horizon, along
from hjepa.training.objective import Objective
from hjepa.training.parameters import build_optimizer
from hjepa.training.rates import Schedules
from hjepa.training.schedules import Cosine, EMAScheduler, LevelWeights, WarmupCosine
from hjepa.training.trainer import Trainer


@dataclass(frozen=True)
class Parts:
    """The parts of a run, and its fully resolved settings."""

    resolved: Resolved
    source: ImageSource
    sampler: MaskSampler
    masks: MaskShape
    batches: Batches
    trainer: Trainer  # holds model, optimizer and accelerator
    step_time: StepTime | None  # only measured if there is a budget


def build(resolved: Resolved, source: ImageSource, *, started: float | None = None) -> Parts:
    """Resolve auto settings and build the parts of a run; raises UserError for settings that cannot work.

    Cheap checks come first. For a budget, the step time is measured on these parts, which are then reset; ``started``
    is ``time.perf_counter()`` at the start of the budget (None: not started).
    """
    # With several ranks, rank 0 decides what is measured, so that all compute the same.
    resolved = resolve_auto(resolved, source)
    refuse_images_all_alike(source, resize_of(resolved.config))
    accelerator = start_accelerator(resolved.config)
    resolved = broadcast_config(resolved)
    sampler = build_sampler(resolved.config)
    masks = mask_shape(sampler, resolved.config)
    resolved = broadcast_config(with_attention(with_capture(resolved, accelerator.num_processes), masks))
    batches = build_batches(resolved.config, source, sampler, accelerator)
    refuse_too_large(resolved.config, masks, accelerator.num_processes)
    by_budget = resolved.config.horizon.steps is None
    if by_budget:
        resolved = derive(resolved, {"horizon.steps": (1000, "while the step time is measured")})
    trainer = build_trainer(resolved.config, build_model(resolved.config), accelerator)
    step_time = None
    if by_budget:
        step_time = time_steps(trainer, batches, 8)
        resolved = broadcast_config(with_fitting_steps(resolved, step_time, started))
        reset_trainer(trainer, resolved.config)
    return Parts(resolved, source, sampler, masks, batches, trainer, step_time)


def build_sampler(config: Config) -> MaskSampler:
    """Return the mask sampler of a configuration; raises UserError for impossible settings."""
    m, seed = config.masking, config.train.seed
    if isinstance(m, RandomMasking):
        single = MaskSettings(
            num_targets=m.num_targets,
            target_scale=m.target_scale,
            context_scale=m.context_scale,
            min_context=m.min_context,
        )
        return RandomPatchSampler(config.grid, single, seed=seed)
    blocks = MaskSettings(
        num_targets=m.num_targets,
        target_scale=m.target_scale,
        target_aspect=m.target_aspect,
        context_scale=m.context_scale,
        min_context=m.min_context if isinstance(m, MultiblockMasking) else 1,
    )
    if isinstance(m, MultiblockMasking):
        return MultiBlockSampler(config.grid, blocks, seed=seed)
    return ReferenceSampler(config.grid, blocks, min_keep=m.min_keep, seed=seed)


def build_batches(config: Config, source: ImageSource, sampler: MaskSampler, accelerator: Accelerator) -> Batches:
    """Return the micro-batches of this rank; raises UserError if the batch cannot be split."""
    data, optim = config.data, config.optim
    shard = RankShard(optim.batch_size, accelerator.num_processes, accelerator.process_index, optim.accumulate)
    if optim.batch_size // (accelerator.num_processes * optim.accumulate) < 2:
        raise UserError(
            f"optim.batch_size = {optim.batch_size}: a micro-batch needs at least 2 images, because each image "
            "is compared with another one; use a larger --optim.batch_size or a smaller --optim.accumulate"
        )
    augment = Augment(resize_of(config), config.augment.crop_scale, config.augment.crop_ratio, config.augment.flip)
    images = MicroBatchDataset(
        source,
        augment,
        seed=config.train.seed,
        batch_size=optim.batch_size,
        max_bad=data.max_bad,
        cache=data.cache,
    )
    return Batches(
        images,
        shard,
        sampler,
        contexts=config.masking.contexts,
        mean=data.mean or (),
        std=data.std or (),
        dtype=torch.float64 if config.train.precision == "float64" else torch.float32,
        workers=data.workers or 0,
        accelerator=accelerator,
        resident=_resident(source, augment, accelerator.device),
    )


def _resident(source: ImageSource, augment: Augment, device: torch.device) -> ResidentImages | None:
    """Move images to the memory of a card, if they fit there."""
    if device.type != "cuda" or not fit_on(source, augment, free=available_memory_gb(device) * 2**30):
        return None
    return ResidentImages(source, augment, device)


def build_model(config: Config) -> HJEPA:
    """Build the model and initialise its weights from ``train.seed``."""
    m = config.model
    model = build_hjepa(
        image_size=config.image_size,
        patch_size=config.patch_size,
        channels=config.data.channels or 3,
        width=m.width,
        depth=m.depth,
        heads=m.heads,
        mlp_ratio=m.mlp_ratio,
        predictor_width=m.predictor_width,
        predictor_depth=m.predictor_depth,
        predictor_heads=m.predictor_heads,
        momentum=momentum_of(config),
        seed=config.train.seed,
        levels=[Level(*level) for level in m.levels or ()],
        pixel_targets=config.loss.pixel_targets,
        initialisation=m.initialisation,
    )
    set_attention(model, config.train.attention)
    set_activation_checkpointing(model, config.train.activation_checkpointing == "on")
    return model.double() if config.train.precision == "float64" else model


def build_trainer(config: Config, model: HJEPA, accelerator: Accelerator) -> Trainer:
    """Move the model to its device and build the trainer with optimizer and schedules."""
    model.to(accelerator.device)
    return Trainer(
        model,
        build_optimizer(
            model,
            betas=config.optim.betas,
            kind=config.optim.optimizer,
            products={"bf16": torch.bfloat16, "float64": torch.float64}.get(config.train.precision, torch.float32),
        ),
        schedules_of(config),
        accelerator=accelerator,
        objective=Objective(config.loss.kind),
        clip_gradient=config.optim.clip_gradient,
        autocast=autocast_dtype(config.train.precision),
        scaler=grad_scaler(config.train.precision, accelerator.device),
        recorder=CudaGraphs(accelerator.device) if config.train.capture == "on" else None,
    )


def reset_trainer(trainer: Trainer, config: Config) -> None:
    """Reset a trainer to its state before the first step: initial weights and a fresh optimizer."""
    initialise_hjepa(trainer.model, seed=config.train.seed, kind=config.model.initialisation)
    trainer.optimizer.state.clear()
    trainer.scaler = grad_scaler(config.train.precision, trainer.accelerator.device)
    trainer.restore(0, 0, 0)
    trainer.capturing = False
    set_schedules(trainer, config)


def set_schedules(trainer: Trainer, config: Config) -> None:
    """Set the schedules of a trainer, after the number of steps has changed."""
    trainer.schedules = schedules_of(config)
    trainer.model.target_encoder.momentum = momentum_of(config)


def schedules_of(config: Config) -> Schedules:
    """Return learning rate, weight decay and the weights of the losses as functions of the step."""
    o, horizon = config.optim, horizon_of(config)
    steps, regulariser = horizon.planned_steps, config.loss.variance_covariance
    levels = len(config.model.levels or (None,))  # None: the last block alone
    level_weights = LevelWeights(
        config.loss.level_weights or (1.0,) * levels, warmup_steps=config.loss.level_warmup * steps
    )
    lr = WarmupCosine(o.start_lr, o.lr, o.final_lr, round(o.warmup * steps), steps)
    return Schedules(
        lr=along(horizon, lr, ahead=1),
        weight_decay=along(horizon, Cosine(o.weight_decay, o.final_weight_decay, steps), ahead=1),
        variance_covariance=along(horizon, Cosine(regulariser, 0.0, steps), ahead=1) if regulariser else None,
        level_weights=along(horizon, level_weights),
    )


def momentum_of(config: Config) -> Callable[[int], float]:
    """Return the target encoder's momentum as a function of the step."""
    ema, horizon = config.ema, horizon_of(config)
    schedule = EMAScheduler(
        ema.momentum,
        ema.final_momentum,
        epochs=1,
        steps_per_epoch=horizon.planned_steps,
        warmup_epochs=ema.hold,
        kind=ema.kind,
    )
    return along(horizon, schedule)


def horizon_of(config: Config) -> Horizon:
    """Return the horizon (number of steps and corrections) of a configuration; ValueError if its length is unset."""
    if config.horizon.steps is None:
        raise ValueError("horizon.steps is not set yet: call build() first")
    return Horizon(config.horizon.steps, config.horizon.corrections)
