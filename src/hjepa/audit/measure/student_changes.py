"""What became of a student that was changed outside its optimizers' steps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hjepa.audit.measure.updates import Change


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
    before, after, teacher = (values[moved] for values in (change.before, change.after, change.teacher))
    apart = change.before != change.teacher
    whole = int((moved & apart).sum()) > 0.5 * int(apart.sum())  # clipped weights may meet the teacher's by chance
    spacing = 4.8e-7 * torch.maximum(before.abs(), after.abs()) + 1e-30
    for kind, line in (("pulled", teacher - before), ("scaled", before)):
        share = float((line * (after - before)).sum() / (line * line).sum().clamp(min=1e-300))
        left = (after - before - share * line).norm()
        fits = bool(left < 1e-3 * (after - before).norm()) or bool(
            ((after - before - share * line).abs() <= spacing).all()
        )
        if fits and (share > 0 or kind == "scaled") and whole:
            return kind
    return "constraint"


def _copied_tensors(change: Change, moved: Tensor, segments: Tensor) -> int:
    """Return how many tensors of the student became the teacher's as a whole."""
    count = 0
    for number in torch.unique(segments[moved]):
        mine = segments == number
        apart = mine & (change.before != change.teacher)
        whole = int(apart.sum()) >= 4 and int((moved & apart).sum()) >= 0.9 * int(apart.sum())
        count += whole and torch.equal(change.after[mine], change.teacher[mine])
    return count
