"""One line of metrics.jsonl, put together every few steps."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from hjepa.config import Config
from hjepa.setup.machine import memory_gb
from hjepa.training.content import Content
from hjepa.training.health import FeatureQueue, measure_levels, teacher_distance
from hjepa.training.trainer import StepResult, Trainer


@dataclass
class Pace:
    """How fast training was since the last line, and how long it waited for its data."""

    waited: float = 0.0  # seconds
    worked: float = 0.0  # seconds, waiting included; saving left out
    images: int = 0
    mark: float = field(default_factory=time.perf_counter)

    def add(self, images: int, waited: float) -> None:
        """Count a step."""
        now = time.perf_counter()
        self.waited += waited
        self.worked += now - self.mark
        self.mark = now
        self.images += images

    def leave_out(self) -> None:
        """Count from now on: what was just done is no training."""
        self.mark = time.perf_counter()

    def measures(self) -> dict[str, float]:
        """Return images a second and the share of time spent waiting."""
        return {
            "images_per_second": round(self.images / self.worked, 1),
            "data_wait": round(self.waited / self.worked, 4),
        }

    def begin_line(self) -> None:
        """Forget what the last line has told."""
        self.waited = self.worked = 0.0
        self.images = 0


def mean_loss(trainer: Trainer, loss: float) -> float:
    """Return the mean of a loss over all processes."""
    precise = torch.float32 if trainer.accelerator.device.type == "mps" else torch.float64
    own_loss = torch.tensor(loss, dtype=precise, device=trainer.accelerator.device)
    return float(trainer.accelerator.reduce(own_loss, "mean"))


def metrics_line(
    result: StepResult,
    loss: float,
    *,
    trainer: Trainer,
    config: Config,
    epoch_images: int,
    queue: FeatureQueue,
    content_at_start: Content,
    pace: Pace,
) -> dict[str, Any]:
    """Return everything that is logged of a step; ``loss`` is the mean over processes."""
    measures = measure_levels(result.forward, trainer.objective.kind, trainer.objective.level_weights)
    images = result.step * config.optim.batch_size
    return {
        "step": result.step,
        "epoch": round(images / epoch_images, 4),
        "images": images,
        "loss": loss,
        **({"regulariser": result.regulariser} if config.optim.variance_covariance else {}),
        **measures,
        "relative_loss": loss / max(measures["loss_position_mean"], 1e-12),
        "effective_rank": queue.rank(),
        **_content(queue.content(), content_at_start),
        "teacher_distance": teacher_distance(trainer.model.target_encoder.encoder, trainer.model.context_encoder),
        "momentum": result.momentum,
        "lr": result.lr,
        "weight_decay": result.weight_decay,
        "grad_norm": result.gradient_norm,
        "skipped": trainer.skipped_steps,
        **pace.measures(),
        "memory_gb": round(memory_gb(), 3),
    }


def _content(now: Content, start: Content) -> dict[str, float]:
    """Return what the features know of their images now and knew at the start, read in each way."""
    line: dict[str, float] = {}
    for way in Content._fields:
        known, before = getattr(now, way), getattr(start, way)
        line |= {f"content_{way}": known.share, f"content_{way}_error": known.error}
        line |= {f"content_{way}_at_start": before.share}
    return line
