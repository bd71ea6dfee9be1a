"""One update of the teacher, and one change of the student outside its optimizers' steps.  Plain data."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hjepa.audit.measure.regression import Fit
from hjepa.audit.observe.recording import Event

AFTER_STEP, BETWEEN_FORWARDS, BEFORE_STEP = "A", "B'", "C"
INSIDE_STEP, BETWEEN_MICRO_BATCHES = "inside-step", "micro-batch"


@dataclass
class Update:
    """One change of the teacher between two snapshots of training."""

    step: int  # optimizer steps finished before
    version: int  # of these, those that changed the student
    position: str
    before: Event
    after: Event
    first: bool  # the first since the last optimizer step
    evaluation: bool
    skipped: bool
    skips: int = 0  # optimizer steps that were skipped before
    student_changed: bool = False
    held_by_optimizer: bool = False
    teacher_alone: bool = False  # since the last step only the teacher ran, and no backward pass
    fit: Fit | None = None
    decay: float | None = None  # what the teacher was multiplied with, where nothing of the student was added
    stale: float | None = None  # share of the student before the last step in what was averaged: 0 new, 1 old
    stale_error: float | None = None
    source: Tensor | None = field(default=None, repr=False)


@dataclass
class Change:
    """The student was another one when it was trained than at the end of its last step."""

    step: int  # optimizer steps finished before
    before: Tensor = field(repr=False)
    after: Tensor = field(repr=False)
    teacher: Tensor = field(repr=False)  # when the student was trained again
    teacher_before: Tensor = field(repr=False)  # at the end of the last step


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two samples are equal, NaN for NaN."""
    return torch.equal(torch.nan_to_num(a, nan=0.5), torch.nan_to_num(b, nan=0.5)) and torch.equal(a.isnan(), b.isnan())


def same_teacher(before: Event, after: Event) -> bool:
    """Whether the teacher is the same at two events, as far as can be seen."""
    a, b = before.snapshot, after.snapshot
    return a is None or b is None or a.teacher.shape != b.teacher.shape or same(a.teacher, b.teacher)
