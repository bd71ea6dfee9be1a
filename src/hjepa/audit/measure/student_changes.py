"""What became of a student that was changed outside its optimizers' steps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hjepa.audit.measure.updates import Change

HALF = 0.5  # of the weights, or of the way to the earlier teacher, from which on the student is no longer itself


@dataclass(frozen=True)
class StudentChange:
    """The student was another one when it was trained than at the end of its last step.

    ``kind``: "copied" (it became the teacher), "pulled" (it moved towards the teacher), "scaled" (all of it by one
    factor), or "constraint" (anything else, such as prototypes that are normalised).
    """

    step: int  # optimizer steps finished before
    kind: str


def kind_of_change(change: Change, segments: Tensor) -> str:
    """Return what the student became."""
    moved = change.before != change.after
    if _copied_tensors(change, moved, segments):
        return "copied"
    before, after = change.before[moved], change.after[moved]
    spacing = 4.8e-7 * torch.maximum(before.abs(), after.abs()) + 1e-30
    # An exchange leaves the average in the student, and takes it off the teacher.
    ends = (("pulled", change.teacher), ("copied", change.teacher_before), ("scaled", torch.zeros_like(change.before)))
    for kind, end in ends:
        line = end[moved] - before
        share = float((line * (after - before)).sum() / (line * line).sum().clamp(min=1e-300))
        left = (after - before - share * line).abs()
        fits = bool(left.norm() < 1e-3 * (after - before).norm()) or bool((left <= spacing).all())
        enough = {"pulled": share > 0, "copied": share > HALF, "scaled": True}[kind]
        if fits and enough and _whole(change, moved, change.teacher if kind == "scaled" else end):
            return kind
    return "constraint"


def _whole(change: Change, moved: Tensor, other: Tensor) -> bool:
    """Return whether most of what differed from the other values moved: clipped weights may meet them by chance."""
    apart = change.before != other
    return int((moved & apart).sum()) > HALF * int(apart.sum())


def _copied_tensors(change: Change, moved: Tensor, segments: Tensor) -> int:
    """Return how many tensors of the student became the teacher's as a whole."""
    count = 0
    for number in torch.unique(segments[moved]):
        mine = segments == number
        apart = mine & (change.before != change.teacher)
        whole = int(apart.sum()) >= 4 and int((moved & apart).sum()) >= 0.9 * int(apart.sum())
        count += whole and torch.equal(change.after[mine], change.teacher[mine])
    return count
