"""The training step, and the loop around it."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from hjepa.models.hjepa import HJEPA, Forward
from hjepa.training.objective import LossWeights, Objective
from hjepa.training.parameters import refuse_target_parameters, set_rates, trained_parameters


class MicroBatch(NamedTuple):
    """A part of a batch that fits into memory at once, on the model's device."""

    images: Tensor  # [B, C, H, W], normalised
    context_index: Tensor  # [B, V]; with several contexts per image, as many times more rows, adjacent for one image
    target_index: Tensor  # [B, K, T]


@dataclass(frozen=True)
class Schedules:
    """Schedules as functions of the step; the EMA momentum belongs to the target encoder."""

    lr: Callable[[int], float]
    weight_decay: Callable[[int], float]
    variance_covariance: Callable[[int], float] = lambda _step: 0.0  # weight of the regulariser; none by default
    level_weights: Callable[[int], tuple[float, ...]] = lambda _step: (1.0,)  # sum to 1; a single level by default

    def loss_weights(self, step: int) -> LossWeights:
        """Return the weights of the objective's terms in a step."""
        return LossWeights(self.level_weights(step), self.variance_covariance(step))


@dataclass(frozen=True)
class StepResult:
    """The outcome of one call of ``train_step``."""

    step: int  # optimizer steps taken so far, including this one if it was taken
    loss: float  # prediction loss, mean over the micro-batches of this rank
    regulariser: float  # already weighted; 0 if there is none
    gradient_norm: float  # before clipping
    stepped: bool  # False: gradients were not finite, nothing moved
    lr: float
    weight_decay: float
    momentum: float | None  # applied to the target encoder; None if the step was skipped
    forward: Forward  # of the last micro-batch
    batch: MicroBatch  # the last micro-batch


class Trainer:
    """Owns a model, its optimizer and the step counter.

    ``step`` counts successful optimizer steps; learning rate, weight decay and momentum are functions
    of it. ``autocast`` is the dtype of matrix products under autocast (None: off); weights keep the model's dtype.
    """

    def __init__(
        self,
        model: HJEPA,
        optimizer: Optimizer,
        schedules: Schedules,
        *,
        accelerator: Accelerator | None = None,
        objective: Objective | None = None,
        clip_gradient: float | None = None,
        autocast: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        refuse_target_parameters(optimizer, model.target_encoder)
        self.accelerator = accelerator or Accelerator()
        self.model = model
        # Only the forward pass goes through the wrapper (DDP); parts are always reached directly.
        self.wrapped = self.accelerator.prepare_model(model)
        self.optimizer = optimizer
        self.schedules = schedules
        self.objective = objective or Objective()
        self.clip_gradient = clip_gradient
        self.autocast = autocast
        self.scaler = scaler or torch.amp.GradScaler(enabled=False)
        self.step = 0
        self.skipped_steps = 0

    def train_step(self, micro_batches: Sequence[MicroBatch]) -> StepResult:
        """Take one optimizer step over the micro-batches, then move the target encoder once."""
        model, optimizer, scaler = self.model, self.optimizer, self.scaler
        lr, weight_decay = self.schedules.lr(self.step), self.schedules.weight_decay(self.step)
        weights = self.schedules.loss_weights(self.step)
        set_rates(optimizer, lr=lr, weight_decay=weight_decay)
        model.train()

        losses = []
        for number, batch in enumerate(micro_batches, start=1):
            with self._reduces_gradients(number == len(micro_batches)):
                with self._autocast(batch.images.device):
                    forward = self.wrapped(*batch)  # targets (no gradient), then predictions
                parts = torch.stack(self.objective(forward, batch.context_index, weights))
                scaler.scale(parts.sum() / len(micro_batches)).backward()
            losses.append(parts.detach())

        scaler.unscale_(optimizer)
        norm = get_total_norm([p.grad for p in trained_parameters(optimizer) if p.grad is not None])
        if self.clip_gradient is not None:
            clip_grads_with_norm_(trained_parameters(optimizer), self.clip_gradient, norm)
        stepped = math.isfinite(float(norm))
        momentum = None
        if stepped:
            scaler.step(optimizer)
            momentum = model.target_encoder.update_from_context_encoder(model.context_encoder, self.step)
            self.step += 1
        else:
            self.skipped_steps += 1
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

        loss, regulariser = torch.stack(losses).mean(0).tolist()
        return StepResult(
            step=self.step,
            loss=loss,
            regulariser=regulariser,
            gradient_norm=float(norm),
            stepped=stepped,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            forward=forward.detached(),
            batch=batch,
        )

    @torch.no_grad()
    def pooled_features(self, images: Tensor) -> Tensor:
        """Return the target encoder's features [B, D] of normalised images, averaged over their tokens."""
        with self._autocast(images.device):
            return self.model.target_encoder(images).mean(1)

    def _reduces_gradients(self, last: bool) -> contextlib.AbstractContextManager[object]:
        """Average gradients over all ranks in the backward pass of the last micro-batch only."""
        return contextlib.nullcontext() if last else self.accelerator.no_sync(self.wrapped)

    def _autocast(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, self.autocast)


def train_loop(
    trainer: Trainer,
    batches: Iterator[list[MicroBatch]],
    *,
    total_steps: Callable[[], int],
    after_step: Callable[[StepResult, float], bool],
) -> None:
    """Train until ``total_steps()`` steps are taken (the number may change on the way) or ``after_step`` returns True.

    ``after_step(result, waited)`` also gets the number of seconds that the step waited for its data.
    """
    while trainer.step < total_steps():
        asked = time.perf_counter()
        micro_batches = next(batches)
        waited = time.perf_counter() - asked
        if after_step(trainer.train_step(micro_batches), waited):
            return
