"""When image content is measured in a run, compared with the same images before training."""

from typing import Any

import torch
from torch import Tensor

from hjepa.config import Config
from hjepa.data.sample import sampled_by_number
from hjepa.data.sources import ImageSource
from hjepa.data.survey import sample_of
from hjepa.setup.autoconfig import resize_of
from hjepa.training.batches import Batches
from hjepa.training.content import NOT_MEASURED, Content, ContentProbe, Estimate, error_of_change
from hjepa.training.trainer import Trainer

IMAGES = 512
FIRST, RATIO = 40, 1.5  # after a fortieth of the run, and whenever the steps have grown by half since the last time


class ContentTracker:
    """Measures image content at ten or so moments of a run; ``line`` is the part of a logged line about it."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.probe: ContentProbe | None = None  # None before the images are read, and if there are none
        self.start: Content = NOT_MEASURED
        self.numbers: list[int] = []  # of the images: the same after a resume, even if a bad one was repaired
        self.step = 0  # of the last measurement
        self.line = self._line(NOT_MEASURED)

    def begin(self, source: ImageSource, batches: Batches, config: Config) -> None:
        """Read the images, and measure what an encoder knows of them that has not been trained."""
        numbers = self.numbers or sample_of(len(source), IMAGES, "content")
        read = list(sampled_by_number(source, numbers, resize_of(config), batches.images.images))
        if not read:
            return
        self.numbers = [number for number, _ in read]
        self.probe = ContentProbe(torch.cat([image for _, image in read]), batches.normalised)
        if self.trainer.step == 0:
            self.start = self.probe.measure(self.trainer.pooled_features)

    def update(self, step: int, total_steps: int) -> None:
        """Measure again if it is time; which steps that are depends on the number of steps alone."""
        if self.probe is not None and (step == total_steps or step >= max(total_steps / FIRST, RATIO * self.step)):
            self.step = step
            self.line = self._line(self.probe.measure(self.trainer.pooled_features))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps as JSON."""
        return {
            "numbers": self.numbers,
            "step": self.step,
            "line": self.line,
            "start": [one.value for one in self.start],
        }

    def tensors(self) -> list[Tensor]:
        """Return what a checkpoint keeps as tensors, [n] per readout."""
        return [one.influence for one in self.start]

    def restore(self, state: dict[str, Any], tensors: list[Tensor]) -> None:
        """Take over the state of a checkpoint."""
        self.numbers, self.step, self.line = state["numbers"], state["step"], state["line"]
        self.start = Content(*(Estimate(*each) for each in zip(state["start"], tensors, strict=True)))

    def _line(self, now: Content) -> dict[str, float]:
        line: dict[str, float] = {"content_step": self.step}
        for way in Content._fields:
            known, before = getattr(now, way), getattr(self.start, way)
            line |= {f"content_{way}": known.value, f"content_{way}_at_start": before.value}
            line |= {f"content_{way}_error": error_of_change(known, before)}
        return line
