"""One line of metrics.jsonl, assembled every few steps."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hjepa.config import Config
from hjepa.setup.machine import memory_gb
from hjepa.training.health import FeatureQueue, judged_level, measure_levels, teacher_distance
from hjepa.training.trainer import StepResult, Trainer


@dataclass
class Throughput:
    """Throughput since the last logged line, and the time spent waiting for data."""

    waited: float = 0.0  # seconds
    worked: float = 0.0  # seconds, including waiting but not saving
    images: int = 0
    mark: float = field(default_factory=time.perf_counter)

    def add(self, images: int, waited: float) -> None:
        """Count a step."""
        now = time.perf_counter()
        self.waited += waited
        self.worked += now - self.mark
        self.mark = now
        self.images += images

    def restart_clock(self) -> None:
        """Restart the clock: the time since the last step was not training."""
        self.mark = time.perf_counter()

    def measures(self) -> dict[str, float]:
        """Return images per second and the fraction of time spent waiting."""
        return {
            "images_per_second": round(self.images / self.worked, 1),
            "data_wait": round(self.waited / self.worked, 4),
        }

    def reset(self) -> None:
        """Reset the counters after a line has been logged."""
        self.waited = self.worked = 0.0
        self.images = 0


def mean_loss(trainer: Trainer, loss: float) -> float:
    """Return the mean of a loss over all ranks."""
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
    content: Mapping[str, float],
    throughput: Throughput,
    bad_images: int,
) -> dict[str, Any]:
    """Return everything that is logged for a step; ``loss`` is the mean over all ranks.

    ``content`` is how much of the image content features predicted when it was last measured (content_tracker.py).
    """
    shares = trainer.schedules.level_weights(result.step - result.stepped)  # those of this step
    judged = judged_level(shares, trainer.schedules.level_weights(config.horizon.steps or 0))
    measures = measure_levels(result.forward, trainer.objective.kind, shares, judged)
    images = result.step * config.optim.batch_size
    return {
        "step": result.step,
        "epoch": round(images / epoch_images, 4),
        "images": images,
        "loss": loss,
        **({"regulariser": result.regulariser} if config.loss.variance_covariance else {}),
        **({"level_weights": list(shares)} if config.loss.level_warmup else {}),
        **measures,
        "relative_loss": loss / max(measures["loss_position_mean"], 1e-12),
        "effective_rank": queue.rank(),
        **content,
        "teacher_distance": teacher_distance(trainer.model.target_encoder.encoder, trainer.model.context_encoder),
        "momentum": result.momentum,
        "lr": result.lr,
        "weight_decay": result.weight_decay,
        "grad_norm": result.gradient_norm,
        "skipped": trainer.skipped_steps,
        "bad_images": bad_images,
        **throughput.measures(),
        "memory_gb": round(memory_gb(), 3),
    }
