"""From a configuration and a source of images to a finished run on disk."""

import contextlib
import math
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from hjepa import __version__
from hjepa.config import Config, Resolved, by_name, derive, dump
from hjepa.data.augment import Augment, Fit
from hjepa.data.loader import MicroBatches, Share, micro_batches, pixel_statistics, read
from hjepa.data.sources import FileSource, ImageSource
from hjepa.errors import UserError
from hjepa.masking import Masks, MaskSettings, MultiBlockSampler, RandomSampler, ReferenceSampler
from hjepa.models.encoder import set_attention
from hjepa.models.frozen import encoder_bytes, encoder_card, normalise_pixels
from hjepa.models.hjepa import HJEPA, build
from hjepa.models.levels import Level
from hjepa.stopping import Stopped
from hjepa.training import checkpoint as checkpoints
from hjepa.training.budget import WORTH_SAYING, Budget, budget_in_force
from hjepa.training.content import NOTHING_KNOWN, Content, Known
from hjepa.training.health import (
    FeatureQueue,
    Health,
    Verdict,
    described_images,
    grace_steps,
    measure_levels,
    teacher_distance,
)
from hjepa.training.horizon import Horizon, along
from hjepa.training.machine import (
    autocast_dtype,
    available_memory_gb,
    choose_attention,
    choose_device,
    choose_precision,
    grad_scaler,
    hardware,
    keep_freed_memory,
    memory_gb,
    return_freed_memory,
)
from hjepa.training.objective import Objective, level_shares
from hjepa.training.parameters import build_optimizer
from hjepa.training.remedies import Remedies
from hjepa.training.run_folder import RunFolder, flush_to_disk, write_atomically, write_json, write_text
from hjepa.training.schedules import Cosine, EMAScheduler, WarmupCosine
from hjepa.training.trainer import MicroBatch, Schedules, StepResult, Trainer, fit

MAX_SKIPPED_IN_A_ROW = 20
# Settings that may change between two parts of one run without changing what it computes.
FREE_TO_CHANGE = {
    "data.corrupt",
    "optim.accumulate",
    "train.steps",
    "train.epochs",
    "train.budget",
    "train.corrections",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "data.workers",
}


CONFIG_NOTE = (
    "# Used with --config for another run: train.steps says how long; without it train.budget, or train.epochs.\n"
)


class Listener(Protocol):
    """Who is told how training goes; the command line draws it, a test collects it."""

    def on_line(self, line: dict[str, Any], total_steps: int) -> None:
        """A line was added to metrics.jsonl."""

    def on_verdict(self, step: int, verdict: Verdict) -> None:
        """The verdict changed."""

    def on_notice(self, text: str) -> None:
        """Something a person should know."""


def complete(resolved: Resolved, source: ImageSource) -> Resolved:
    """Fill every open value from the data and the machine; each with its reason.

    In several processes the first one decides, so that all compute the same.
    """
    resolved = _with_sizes(resolved, source)
    config = resolved.config
    values: dict[str, tuple[Any, str]] = {}
    channels = config.data.channels or source.channels
    if config.data.channels is None:
        values["data.channels"] = (channels, "as the images are")
    _refuse_sizes_beyond_memory(config, channels)
    if config.data.mean is None or config.data.std is None:
        skip = config.data.corrupt == "skip"
        measured = pixel_statistics(source, fit_of(config, channels), skip_corrupt=skip)
        reason = f"measured on {min(512, len(source))} images"
        for name, given, value in zip(("mean", "std"), (config.data.mean, config.data.std), measured, strict=True):
            if given is None:
                values[f"data.{name}"] = (value, reason)
    if config.data.workers is None:
        from_files = isinstance(source, FileSource)
        reason = "images are read from files" if from_files else "no files to read"
        values["data.workers"] = (2 if from_files else 0, reason)
    if config.train.steps is None and config.train.budget is None:  # a budget is measured: see plan.keep_budget
        steps = max(1, int(config.train.epochs * len(source) / config.optim.batch_size))
        values["train.steps"] = (steps, f"{config.train.epochs:g} epochs of {len(source):,} images")
    device = choose_device(config.train.device)
    precision, reason = choose_precision(config.train.precision, device)
    if precision != config.train.precision:
        values["train.precision"] = (precision, reason)
    if device.type != config.train.device:
        values["train.device"] = (device.type, "the best one here")
    attention, reason = choose_attention(
        config.train.attention, device=device, precision=precision, shapes=_attention_shapes(config)
    )
    if attention != config.train.attention:
        values["train.attention"] = (attention, reason)
    return derive(resolved, values)


def _with_sizes(resolved: Resolved, source: ImageSource) -> Resolved:
    """Fill open image and patch sizes: 28, 32, 64 or 96 pixels, the first that covers the images; 7 or 8 patches."""
    data = resolved.config.data
    values: dict[str, tuple[Any, str]] = {}
    size = data.image_size
    if size is None:
        side = min(read(source, 0, skip_corrupt=data.corrupt == "skip").shape[:2])
        patch = resolved.config.model.patch_size or 1
        chosen = next((s for s in (28, 32, 64) if side <= s), 96) // patch * patch
        if chosen < 2 * patch:
            raise UserError(
                f"model.patch_size = {patch} leaves less than 2x2 patches on images of {side} pixels: use a smaller one"
            )
        size = (chosen, chosen)
        values["data.image_size"] = (size, f"the first image is {side} pixels wide or high")
    if resolved.config.model.patch_size is None:
        patch = _patch_for(size)
        values["model.patch_size"] = (patch, f"{min(size) // patch} patches across {min(size)} pixels")
    return derive(resolved, values)


def _refuse_sizes_beyond_memory(config: Config, channels: int) -> None:
    """Raise UserError if not even two images and their tokens fit: before anything is allocated for them.

    What a step of the whole batch needs is estimated later, with masks that would be too large here.
    """
    height, width = config.image_size
    values = 2 * (height * width * channels + config.grid[0] * config.grid[1] * config.model.width)
    need, free = 4 * values / 2**30, available_memory_gb(choose_device(config.train.device))
    if need > free:
        raise UserError(
            f"data.image_size = {height},{width}: two images alone need {need:.0f} GB and {free:.0f} GB are free; "
            "use a smaller --data.image_size"
        )


def _patch_for(size: tuple[int, int]) -> int:
    """Return the patch that divides both sides and comes nearest to 8 patches across the shorter one."""
    common = math.gcd(*size)
    patch = min((p for p in range(1, common + 1) if common % p == 0), key=lambda p: abs(p - min(size) / 8))
    if not 2 <= min(size) // patch <= 32:
        raise UserError(
            f"data.image_size = {size[0]},{size[1]} cannot be cut into about 8 equal patches a side: "
            "use multiples of 8, or choose --model.patch_size"
        )
    return patch


def start_accelerator(config: Config) -> Accelerator:
    """Return what knows about devices and processes; precision and compilation are ours, whatever the launcher says."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        AcceleratorState._reset_state(True)  # an earlier run of this Python process may have been on another device
    if config.train.device == "cpu":
        keep_freed_memory()
    return Accelerator(cpu=config.train.device == "cpu", mixed_precision="no", dynamo_backend="no")


def agree(resolved: Resolved) -> Resolved:
    """Return the first process's configuration in every process."""
    box = [resolved]
    broadcast_object_list(box)
    return box[0]


def fit_of(config: Config, channels: int | None = None) -> Fit:
    """Return how images are brought to the input size without randomness."""
    return Fit(config.image_size, channels or config.data.channels or 3, config.data.fit)


def mask_sampler(config: Config) -> MultiBlockSampler | RandomSampler | ReferenceSampler:
    """Return the mask sampler of a configuration; raises UserError for impossible settings."""
    m = config.masking
    settings = MaskSettings(
        num_targets=m.num_targets,
        target_scale=m.target_scale,
        target_aspect=m.target_aspect,
        context_scale=m.context_scale,
        min_context=m.min_context,
    )
    if m.sampler == "multiblock":
        return MultiBlockSampler(config.grid, settings, seed=config.train.seed)
    if m.sampler == "random":
        return RandomSampler(config.grid, settings, seed=config.train.seed)
    return ReferenceSampler(config.grid, settings, min_keep=m.min_context, seed=config.train.seed)


def build_model(config: Config) -> HJEPA:
    """Build the model with the weights that ``train.seed`` gives."""
    m = config.model
    model = build(
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
        pixel_targets=m.pixel_targets,
        initialisation=m.initialisation,
    )
    set_attention(model, config.train.attention)
    return model.double() if config.train.precision == "float64" else model


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
    """Return how far a run of this configuration is at each of its steps."""
    return Horizon(_steps(config), config.train.corrections)


def schedules_of(config: Config) -> Schedules:
    """Return learning rate, weight decay and the regulariser's weight as functions of the step."""
    o, horizon = config.optim, horizon_of(config)
    steps = horizon.planned_steps
    lr = WarmupCosine(o.start_lr, o.lr, o.final_lr, round(o.warmup * steps), steps)
    return Schedules(
        lr=along(horizon, lr, ahead=1),
        weight_decay=along(horizon, Cosine(o.weight_decay, o.final_weight_decay, steps), ahead=1),
        variance_covariance=along(horizon, Cosine(o.variance_covariance, 0.0, steps), ahead=1),
    )


def build_trainer(config: Config, model: HJEPA, accelerator: Accelerator) -> Trainer:
    """Put the model on its device and give it optimizer and schedules."""
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
        objective=Objective(config.optim.loss, level_shares(config.optim.level_weights, len(model.levels))),
        clip_gradient=config.optim.clip_gradient,
        autocast=autocast_dtype(config.train.precision),
        scaler=grad_scaler(config.train.precision, accelerator.device),
    )


class Batches:
    """Joins images and masks of this process into micro-batches on the device.

    Everything is a function of the attempt (steps taken + steps skipped), so any point of a run can be
    entered directly, and a skipped step does not meet the same batch again.
    """

    def __init__(self, config: Config, source: ImageSource, accelerator: Accelerator) -> None:
        self.config, self.device = config, accelerator.device
        self.on_cuda = self.device.type == "cuda"
        self.share = Share(
            config.optim.batch_size,
            accelerator.num_processes,
            accelerator.process_index,
            config.optim.accumulate,
        )
        self.masks = mask_sampler(config)
        augment = Augment(fit_of(config), config.augment.crop_scale, config.augment.crop_ratio, config.augment.flip)
        self.images = MicroBatches(
            source,
            augment,
            seed=config.train.seed,
            batch_size=config.optim.batch_size,
            skip_corrupt=config.data.corrupt == "skip",
        )
        dtype = torch.float64 if config.train.precision == "float64" else torch.float32
        self.mean, self.std = (
            torch.tensor(values, dtype=dtype, device=self.device).view(-1, 1, 1)
            for values in (config.data.mean, config.data.std)
        )

    def __call__(self, first_attempt: int) -> Iterator[list[MicroBatch]]:
        """Yield the micro-batches of each attempt, for ever."""
        stream = micro_batches(
            self.images,
            self.share,
            first_attempt=first_attempt,
            workers=self.config.data.workers or 0,
            pin_memory=self.on_cuda,
        )
        attempt = first_attempt
        while True:
            pieces = []
            for rows in self.share.rows():
                masks = self._masks(attempt, rows)
                pieces.append(self._micro_batch(next(stream), masks))
            yield pieces
            attempt += 1

    def _masks(self, attempt: int, rows: slice) -> Masks:
        """Return the masks of some images, those of one image one after the other."""
        each = self.config.masking.contexts
        return self.masks.sample(attempt, each * self.share.batch_size, slice(each * rows.start, each * rows.stop))

    def _micro_batch(self, pixels: Tensor, masks: Masks) -> MicroBatch:
        # Only CUDA orders an asynchronous copy before the memory it reads is used again.
        pixels, context, targets = (
            tensor.to(self.device, non_blocking=self.on_cuda)
            for tensor in (pixels, torch.from_numpy(masks.context), torch.from_numpy(masks.targets))
        )
        return MicroBatch(normalise_pixels(pixels, self.mean, self.std), context, targets)


@dataclass
class Session:
    """One run being trained: trainer, batches, health and the folder they are written to."""

    resolved: Resolved
    source: ImageSource
    trainer: Trainer
    batches: Batches
    folder: RunFolder
    record: dict[str, Any]
    listener: Listener
    started: float = field(default_factory=time.perf_counter)  # when the time of a budget began to count

    def __post_init__(self) -> None:
        self.config = self.resolved.config
        self.total_steps = _steps(self.config)
        seconds = budget_in_force(self.resolved)
        self.budget = None if seconds is None else Budget(seconds, self.started)
        self.steps_announced = self.total_steps
        self.health = Health(grace_steps(self.total_steps), Remedies(by_name(self.config), self.total_steps))
        self.health.queue = FeatureQueue(described_images(self.total_steps * self.config.optim.batch_size))
        self.verdict: Verdict | None = None
        self.best_rank = 0.0
        self.content_at_start = NOTHING_KNOWN
        self.skipped_in_a_row = 0
        self.signal: int | None = None  # what this process was sent
        self.stop: int | None = None  # what all processes have agreed to stop for
        self.first_step = self.trainer.step
        self.waited = self.worked = 0.0
        self.interval_images = 0
        self.mark = time.perf_counter()
        self.main = self.trainer.accelerator.is_main_process

    # ---- the loop -------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end; raises Stopped after a signal, UserError if it diverges or meets a damaged image.

        What was learned is saved in each case.
        """
        trainer, status = self.trainer, "failed"
        self._write_record("running")
        try:
            with self._signals():
                self._fit()
            self.save()
            if trainer.step == self.total_steps:
                status = "finished"
            elif self.stop is not None:
                status = "stopped"
                raise Stopped(self.stop, trainer.step)
            else:
                raise UserError(
                    f"diverging: {self.skipped_in_a_row} steps in a row had gradients that are not finite "
                    f"(saved at step {trainer.step}); start again with a lower --optim.lr than {self.config.optim.lr:g}"
                )
        finally:
            self._note_skipped_images()
            self._write_record(status)

    def _note_skipped_images(self) -> None:
        """Say which images could not be read, and keep their names: silence would pass for a clean folder."""
        met = self.batches.images.skipped
        if not met or not self.main:
            return
        names = list(dict.fromkeys([*self.record.get("unreadable_images", []), *met]))
        self.record["unreadable_images"] = names
        self.listener.on_notice(
            f"data.corrupt = skip: {len(names)} of {len(self.source):,} images could not be read and were replaced by "
            f"the next ones (the first: {names[0]}); run.json names all, delete them or mend them"
        )

    def _fit(self) -> None:
        trainer = self.trainer
        attempts = trainer.step + trainer.skipped_steps
        try:
            batches = self._read_together(self.batches(attempts))
            fit(trainer, batches, total_steps=lambda: self.total_steps, after_step=self._after_step)
        except UserError:  # a damaged image: it was met between two steps, so what was learned can be kept
            if trainer.step > self.first_step:
                self.save()
            raise

    def _read_together(self, batches: Iterator[list[MicroBatch]]) -> Iterator[list[MicroBatch]]:
        """Yield the batches; when one process cannot read an image, all leave before the same step.

        All leave with that image's name: a launcher stops the others as soon as the first has left, which need not
        be the one that met it.
        """
        accelerator = self.trainer.accelerator
        while True:
            batch: list[MicroBatch] = []
            error = None
            try:
                batch = next(batches)
            except UserError as met:
                error = met
            if accelerator.num_processes > 1:
                failed = accelerator.gather(torch.tensor([int(error is not None)], device=accelerator.device))
                if bool(failed.any()):
                    said = gather_object([str(error or "")])
                    error = error or UserError(next(filter(None, said)))
            if error is not None:
                raise error
            yield batch

    def _after_step(self, result: StepResult, waited: float) -> bool:
        """Log, save, and say whether to stop."""
        now = time.perf_counter()
        self.waited += waited
        self.worked += now - self.mark
        self.mark = now
        self.interval_images += self.config.optim.batch_size
        self.skipped_in_a_row = 0 if result.stepped else self.skipped_in_a_row + 1
        if result.stepped:
            self._keep_budget(result.step)
        every = self.config.train.log_every
        # Steps until the next line; the last step has one wherever it falls.
        missing = min((-result.step) % every, max(0, self.total_steps - result.step))
        if missing * result.batch.images.shape[0] < self.health.queue.length:
            self.health.queue.add(result.forward.pooled, result.batch.images)
        gave_up = self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW
        if (missing == 0 and result.stepped) or result.step == self.total_steps or gave_up:
            self._log(result)
        if result.stepped and result.step % self.config.train.checkpoint_every == 0:
            self.save()
        return self._asked_to_stop() or gave_up

    def _keep_budget(self, step: int) -> None:
        """Correct the number of steps if the run would end too late or too early for its budget."""
        if self.budget is None or not self.budget.is_due(step, self.total_steps):
            return
        box = [self.budget.fitting_steps(step, self.total_steps)]
        broadcast_object_list(box)  # the first process's clock counts
        if box[0] != self.total_steps:
            self._correct_length(step, box[0])

    def _correct_length(self, step: int, total_steps: int) -> None:
        """Give the run another number of steps; what is left of every schedule is spread over what is left of them."""
        budget, before = self.config.train.budget, self.total_steps
        horizon = horizon_of(self.config).corrected(step, total_steps)
        why = f"{budget} by the pace at step {step}"
        changes = {"train.steps": (total_steps, why), "train.corrections": (horizon.corrections, why)}
        self.resolved = derive(self.resolved, changes)
        self.config, self.total_steps = self.resolved.config, total_steps
        self.trainer.schedules = schedules_of(self.config)
        self.trainer.model.target_encoder.momentum = momentum_of(self.config)
        self.health.grace = grace_steps(total_steps)
        self.health.remedies = Remedies(by_name(self.config), total_steps)
        self.record.setdefault("corrections", []).append({"step": step, "steps_before": before, "steps": total_steps})
        if self.main:
            write_config(self.folder, self.resolved)
            if abs(total_steps - self.steps_announced) >= WORTH_SAYING * self.steps_announced:
                said, self.steps_announced = self.steps_announced, total_steps
                self.listener.on_notice(
                    f"budget {budget}: {total_steps:,} steps instead of {said:,}, by the pace so far"
                )

    def _log(self, result: StepResult) -> None:
        trainer = self.trainer
        precise = torch.float32 if trainer.accelerator.device.type == "mps" else torch.float64
        own_loss = torch.tensor(result.loss, dtype=precise, device=trainer.accelerator.device)
        loss = float(trainer.accelerator.reduce(own_loss, "mean"))
        if not self.main:
            return
        measures = measure_levels(result.forward, trainer.objective.kind, trainer.objective.level_shares)
        images = result.step * self.config.optim.batch_size
        line: dict[str, Any] = {
            "step": result.step,
            "epoch": round(images / len(self.source), 4),
            "images": images,
            "loss": loss,
            **({"regulariser": result.regulariser} if self.config.optim.variance_covariance else {}),
            **measures,
            "relative_loss": loss / max(measures["loss_position_mean"], 1e-12),
            "effective_rank": self.health.queue.rank(),
            **self._content(),
            "teacher_distance": teacher_distance(trainer.model.target_encoder.encoder, trainer.model.context_encoder),
            "momentum": result.momentum,
            "lr": result.lr,
            "weight_decay": result.weight_decay,
            "grad_norm": result.gradient_norm,
            "skipped": trainer.skipped_steps,
            "images_per_second": round(self.interval_images / self.worked, 1),
            "data_wait": round(self.waited / self.worked, 4),
            "memory_gb": round(memory_gb(), 3),
        }
        verdict = self.health.add(line)
        line["verdict"] = verdict.verdict
        self.folder.append_metrics(line)
        self.waited = self.worked = 0.0
        self.interval_images = 0
        self.listener.on_line(line, self.total_steps)
        if self.verdict is None or verdict.verdict != self.verdict.verdict:
            history = self.record.setdefault("verdict_history", [])
            history.append({"step": result.step, **verdict.to_json()})
            self.listener.on_verdict(result.step, verdict)
        self.verdict = verdict

    def measure_start(self) -> None:
        """Measure what the encoder knows of images before the first step: what a run has learned is what comes to it.

        Each process measures its own share of the images; the first one's is judged.
        """
        if self.trainer.step:
            return
        queue, encoder = self.health.queue, self.trainer.model.target_encoder
        with contextlib.suppress(
            UserError
        ):  # a damaged image: training meets it at its place, and saves before it leaves
            for pieces in self._read_together(self.batches(0)):
                for batch in pieces:
                    queue.add(encoder(batch.images).mean(1), batch.images)
                if queue.features is not None and len(queue.features) >= queue.described:
                    break
        self.content_at_start = queue.content()
        self.health.queue = FeatureQueue(queue.described)

    def _content(self) -> dict[str, float]:
        """Return what the features know of their images now and knew at the start, read in each way."""
        now, start = self.health.queue.content(), self.content_at_start
        line: dict[str, float] = {}
        for way in Content._fields:
            known, before = getattr(now, way), getattr(start, way)
            line |= {f"content_{way}": known.share, f"content_{way}_error": known.error}
            line |= {f"content_{way}_at_start": before.share}
        return line

    # ---- what is saved --------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint and the encoder; by the first process, the others wait."""
        if self.main:
            if self.folder.metrics.is_file():
                flush_to_disk(self.folder.metrics)
            rank = self.health.queue.rank()
            best = rank > self.best_rank  # labels would be better; the loss would be worse
            self.best_rank = rank if best else self.best_rank
            checkpoints.save(
                self.folder.checkpoints,
                self._checkpoint(),
                keep=self.config.train.keep_checkpoints,
                best=best,
            )
            self.folder.discard_replaced()
            self._write_encoder()
            self._write_record("running")
            return_freed_memory()
        self.trainer.accelerator.wait_for_everyone()
        self.mark = time.perf_counter()

    def _checkpoint(self) -> checkpoints.Checkpoint:
        trainer = self.trainer
        return checkpoints.Checkpoint(
            weights=trainer.model.state_dict(),
            training={
                "optimizer": trainer.optimizer.state_dict(),
                "scaler": trainer.scaler.state_dict(),
                "features": self.health.queue.features,
                "descriptions": self.health.queue.descriptions,
            },
            state={
                "step": trainer.step,
                "skipped_steps": trainer.skipped_steps,
                "skipped_in_a_row": self.skipped_in_a_row,
                "best_rank": self.best_rank,
                "content_at_start": [list(share) for share in self.content_at_start],
                "config": self.config.model_dump(mode="json"),
                "health": list(self.health.history),
                "verdict": self.verdict.to_json() if self.verdict else None,
                "verdict_history": self.record.get("verdict_history", []),
                "seconds": self._seconds(),
            },
        )

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Go on from a checkpoint; raises UserError before anything moves if it is of another configuration."""
        state = checkpoint.state
        refuse_other_configuration(self.config, state["config"])
        trainer = self.trainer
        trainer.model.load_state_dict(checkpoint.weights)
        trainer.optimizer.load_state_dict(checkpoint.training["optimizer"])
        trainer.scaler.load_state_dict(checkpoint.training["scaler"])
        trainer.step, trainer.skipped_steps = state["step"], state["skipped_steps"]
        self.first_step = trainer.step
        if "descriptions" in checkpoint.training:  # a checkpoint that has none is of a time before content was measured
            self.health.queue.features = checkpoint.training["features"]
            self.health.queue.descriptions = checkpoint.training["descriptions"]
        if "content_at_start" in state:
            self.content_at_start = Content(*(Known(*known) for known in state["content_at_start"]))
        self.health.history.extend(state["health"])
        self.verdict = Verdict(**state["verdict"]) if state["verdict"] else None
        self.best_rank, self.skipped_in_a_row = state["best_rank"], state["skipped_in_a_row"]
        self.record["verdict_history"] = state["verdict_history"]
        self.record["seconds_before"] = state["seconds"]
        if self.budget is not None:
            self.budget.spent_before = float(state["seconds"])

    def _write_encoder(self) -> None:
        encoder = self.trainer.model.target_encoder.encoder
        data = self.config.data
        card = encoder_card(
            encoder,
            {"image_size": list(self.config.image_size), "fit": data.fit, "mean": data.mean, "std": data.std},
            {
                "network": "target encoder",
                "step": self.trainer.step,
                "data": self.record["data"],
                "recipe": self.config.recipe,
                "seed": self.config.train.seed,
                "hjepa": __version__,
            },
            self.trainer.model.levels,
            self.config.model.pixel_targets,
            self.config.model.initialisation,
        )
        write_atomically(self.folder.encoder, lambda path: path.write_bytes(encoder_bytes(encoder)))
        write_json(self.folder.encoder_card, card)

    def _write_record(self, status: str) -> None:
        if not self.main:
            return
        trainer, seconds = self.trainer, self._seconds()
        images = trainer.step * self.config.optim.batch_size
        self.record |= {
            "status": status,
            "finished": None if status == "running" else now(),
            "steps": trainer.step,
            "total_steps": self.total_steps,
            "images": images,
            "skipped_steps": trainer.skipped_steps,
            "seconds": round(seconds, 1),
            "images_per_second": self._speed(),
            "verdict": self.verdict.to_json() if self.verdict else None,
        }
        self.folder.write_record(self.record)

    def _seconds(self) -> float:
        """Return the training time so far, earlier parts of the run included."""
        return float(self.record.get("seconds_before", 0.0)) + time.perf_counter() - self.started

    def _speed(self) -> float | None:
        """Return the median images a second of the logged lines."""
        speeds = sorted(line["images_per_second"] for line in self.health.history)
        return speeds[len(speeds) // 2] if speeds else None

    # ---- signals --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn SIGTERM, SIGUSR1 and SIGINT into a wish to stop after the current step."""

        def remember(number: int, _frame: object) -> None:
            self.signal = number

        wanted = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        try:
            before = {number: signal.signal(number, remember) for number in wanted}
        except ValueError:  # not the main thread (a notebook's worker): signals are not ours there
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked_to_stop(self) -> bool:
        """Return whether any process got a signal; all must agree to stop at the same step."""
        accelerator = self.trainer.accelerator
        if accelerator.num_processes == 1:
            self.stop = self.signal
        else:
            sent = torch.tensor([self.signal or 0], device=accelerator.device)
            self.stop = int(accelerator.gather(sent).max()) or None
        return self.stop is not None


def refuse_other_configuration(config: Config, saved: dict[str, Any]) -> None:
    """Raise UserError if a checkpoint's configuration computes something else than ``config``."""
    own, defaults = config.model_dump(mode="json"), Config().model_dump(mode="json")
    for section, values in own.items():
        for name, value in values.items() if isinstance(values, dict) else ():
            dotted = f"{section}.{name}"
            # What a checkpoint does not know came later; its default is what was computed before.
            other = saved.get(section, {}).get(name, defaults[section][name])
            if dotted not in FREE_TO_CHANGE and other != value:
                raise UserError(
                    f"the checkpoint has {dotted} = {other}, this run {value}: resume with the run's own settings, "
                    "or start a new run from its weights with --init-from"
                )


def new_record(command: str, source: ImageSource, model: HJEPA, config: Config) -> dict[str, Any]:
    """Return run.json as it stands before the first step."""
    return {
        "format": 1,
        "status": "running",
        "command": command,
        "created": now(),
        "finished": None,
        "versions": {"hjepa": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "timm", "accelerate", "numpy")},
        "git": _git(Path.cwd()),
        "hardware": hardware(),
        "data": {"source": source.name, "images": len(source), "fingerprint": source.fingerprint()},
        "seed": config.train.seed,
        "precision": config.train.precision,
        "attention": config.train.attention,
        "parameters": {
            "context_encoder": _count(model.context_encoder),
            "predictor": _count(model.predictor),
        },
    }


def write_config(folder: RunFolder, resolved: Resolved) -> None:
    """Write config.yaml."""
    write_text(folder.config, CONFIG_NOTE + dump(resolved))


def now() -> str:
    """Return the time as ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _steps(config: Config) -> int:
    if config.train.steps is None:
        raise ValueError("train.steps is still open: call complete() first")
    return config.train.steps


def _attention_shapes(config: Config) -> list[tuple[int, int, int, int]]:
    """Return (sequences, tokens, width, heads) of target, context and predictor for one micro-batch."""
    m, images = config.model, max(1, config.optim.batch_size // config.optim.accumulate)
    contexts = config.masking.contexts
    sample = mask_sampler(config).sample(0, min(config.optim.batch_size * contexts, 256), slice(0, 1))
    visible, (blocks, size) = sample.context.shape[1], sample.targets.shape[1:]
    patches = config.grid[0] * config.grid[1]
    images = min(images, 64)  # enough to tell the kernels apart
    return [
        (images, patches, m.width, m.heads),
        (images * contexts, visible, m.width, m.heads),
        (images * contexts * blocks, visible + size, m.predictor_width, m.predictor_heads),
    ]


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _git(folder: Path) -> dict[str, Any] | None:
    """Return commit and cleanliness of the working directory's repository, if it is one."""

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
