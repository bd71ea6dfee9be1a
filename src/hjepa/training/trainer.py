"""The training step, and the loop around it."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from hjepa.models.hjepa import HJEPA, Forward
from hjepa.training.adamw import AdamW
from hjepa.training.capture import Captured, Recorder
from hjepa.training.objective import Objective
from hjepa.training.parameters import refuse_target_parameters, set_rates, trained_parameters
from hjepa.training.rates import RateTable, Schedules


class MicroBatch(NamedTuple):
    """A part of a batch that fits into memory at once, on the model's device."""

    images: Tensor  # [B, C, H, W], normalised
    context_index: Tensor  # [B, V]; with several contexts per image, as many times more rows, adjacent for one image
    target_index: Tensor  # [B, K, T]


@dataclass(frozen=True)
class StepResult:
    """The outcome of one call of ``train_step``. Whoever asks for a number waits until the device has computed it.

    ``forward`` is that of the last micro-batch; where the step is captured, the next step overwrites it.
    """

    numbers: Tensor  # [8] float64: those below
    forward: Forward
    batch: MicroBatch  # the last micro-batch

    @cached_property
    def _read(self) -> list[float]:
        return list(self.numbers.tolist())

    @property
    def step(self) -> int:
        """Return the optimizer steps taken so far, including this one if it was taken."""
        return int(self._read[0])

    @property
    def loss(self) -> float:
        """Return the prediction loss, mean over the micro-batches of this rank."""
        return self._read[1]

    @property
    def regulariser(self) -> float:
        """Return the regulariser, already weighted; 0 if there is none."""
        return self._read[2]

    @property
    def gradient_norm(self) -> float:
        """Return the norm of the gradients before clipping."""
        return self._read[3]

    @property
    def stepped(self) -> bool:
        """Return whether the step was taken; if not, gradients were not finite, and nothing moved."""
        return self._read[4] > 0

    @property
    def lr(self) -> float:
        """Return the learning rate."""
        return self._read[5]

    @property
    def weight_decay(self) -> float:
        """Return the weight decay."""
        return self._read[6]

    @property
    def momentum(self) -> float | None:
        """Return the momentum applied to the target encoder; None if the step was skipped."""
        return self._read[7] if self.stepped else None


class Trainer:
    """Owns a model, its optimizer and the counters of steps, which live on the device of the model.

    ``step`` counts successful optimizer steps; learning rate, weight decay and momentum are functions
    of it. ``autocast`` is the dtype of matrix products under autocast (None: off); weights keep the model's dtype.
    With a ``recorder`` the step is captured while ``capturing`` is on.
    """

    def __init__(
        self,
        model: HJEPA,
        optimizer: AdamW,
        schedules: Schedules,
        *,
        accelerator: Accelerator | None = None,
        objective: Objective | None = None,
        clip_gradient: float | None = None,
        autocast: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        recorder: Recorder | None = None,
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
        # Counters and rates need float64 to be those of the CPU; MPS has none, so there the host keeps them.
        device = next(model.parameters()).device
        self.place = torch.device("cpu") if device.type == "mps" else device
        self.counters = torch.zeros(3, dtype=torch.int64, device=self.place)  # steps, skipped, skipped in a row
        self._one = torch.ones((), dtype=torch.float64, device=self.place)  # a number of the host would be copied there
        self.rates = RateTable(self.place, len(model.levels))
        self._known, self._since = [0, 0, 0], 0  # the counters as last read, and the attempts since
        self.captured = None if recorder is None else Captured(self._step_on_device, recorder, optimizer.zero_grad)
        self.capturing = False

    def train_step(self, micro_batches: Sequence[MicroBatch]) -> StepResult:
        """Take one optimizer step over the micro-batches, then move the target encoder once.

        The host only makes sure that the rates are there; it reads no result.
        """
        momentum = self.model.target_encoder.momentum
        if self.rates.lacks(self.step_at_most, self.schedules, momentum):
            self.rates.fill(self.step, self.schedules, momentum)
        take = self.captured if self.captured is not None and self.capturing else self._step_on_device
        numbers, forward = take(micro_batches)
        self._since += 1
        return StepResult(numbers.clone(), forward, micro_batches[-1])

    def _step_on_device(self, micro_batches: Sequence[MicroBatch]) -> tuple[Tensor, Forward]:
        """THE step: from micro-batches to moved weights, without a question from the host (decision 0026)."""
        model, optimizer, scaler = self.model, self.optimizer, self.scaler
        rates = self.rates.at(self.counters[0])
        set_rates(optimizer, lr=rates.lr, weight_decay=rates.weight_decay)
        model.train()

        losses = []
        for number, batch in enumerate(micro_batches, start=1):
            with self._reduces_gradients(number == len(micro_batches)):
                with self._autocast(batch.images.device):
                    forward = self.wrapped(*batch)  # targets (no gradient), then predictions
                patches = self._patches(batch.images)
                parts = torch.stack(self.objective(forward, batch.context_index, rates.losses, patches))
                scaler.scale(parts.sum() / len(micro_batches)).backward()
            losses.append(parts.detach())

        scaler.unscale_(optimizer)
        norm = get_total_norm([p.grad for p in trained_parameters(optimizer) if p.grad is not None])
        if self.clip_gradient is not None:
            clip_grads_with_norm_(trained_parameters(optimizer), self.clip_gradient, norm)
        stepped = norm.isfinite().to(self.place)
        optimizer.found_inf = 1.0 - stepped.float()  # 1: parameters, their state and the target encoder stay
        optimizer.step()
        momentum = torch.where(stepped, rates.momentum, self._one)
        model.target_encoder.update(model.context_encoder, momentum)
        self._count(stepped)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

        numbers = [self.counters[0], *torch.stack(losses).mean(0), norm, stepped, *rates[:2], momentum]
        return torch.stack([n.detach().to(self.place).double() for n in numbers]), forward.detached()

    def _count(self, stepped: Tensor) -> None:
        """Count the step as taken or skipped."""
        taken = stepped.long()
        self.counters.add_(torch.stack([taken, 1 - taken, 1 - taken]))
        self.counters[2].mul_(1 - taken)

    # ---- what the host knows of it --------------------------------------------------------------

    @property
    def step_at_most(self) -> int:
        """Return how many steps may have been taken; nothing is read from the device."""
        return self._known[0] + self._since

    @property
    def skipped_in_a_row_at_most(self) -> int:
        """Return how many of the last steps may have been skipped; nothing is read from the device."""
        return self._known[2] + self._since

    @property
    def step(self) -> int:
        """Return the number of optimizer steps taken, once the device has taken them."""
        return self.read()[0]

    @property
    def skipped_steps(self) -> int:
        """Return the number of steps that were skipped because gradients were not finite."""
        return self.read()[1]

    @property
    def skipped_in_a_row(self) -> int:
        """Return how many of the last steps were skipped."""
        return self.read()[2]

    def read(self) -> list[int]:
        """Return steps, skipped steps, and how many of the last ones were skipped; waits for the device."""
        if self._since:
            self._known, self._since = [int(count) for count in self.counters.tolist()], 0
        return self._known

    def restore(self, step: int, skipped_steps: int, skipped_in_a_row: int) -> None:
        """Set the counters, when weights and optimizer have been set as well: nothing recorded is valid any more."""
        self._known, self._since = [step, skipped_steps, skipped_in_a_row], 0
        self.counters.copy_(torch.tensor(self._known))
        if self.captured is not None:
            self.captured.forget()

    def is_working(self) -> bool:
        """Return whether the device still computes; a CPU never does when it is asked."""
        return self.place.type == "cuda" and not torch.cuda.current_stream(self.place).query()

    @torch.no_grad()
    def pooled_features(self, images: Tensor) -> Tensor:
        """Return the target encoder's features [B, D] of normalised images, averaged over their tokens."""
        with self._autocast(images.device):
            return self.model.target_encoder(images).mean(1)

    def _patches(self, images: Tensor) -> int:
        """Return the number N of patches in an image."""
        rows, columns = self.model.context_encoder.grid((images.shape[-2], images.shape[-1]))
        return rows * columns

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

    ``after_step(result, waited)`` also gets the number of seconds that the step waited for its data: none if the
    device still had work when they came.
    """
    while trainer.step_at_most < total_steps() or trainer.step < total_steps():
        asked = time.perf_counter()
        micro_batches = next(batches)
        waited = 0.0 if trainer.is_working() else time.perf_counter() - asked
        if after_step(trainer.train_step(micro_batches), waited):
            return
