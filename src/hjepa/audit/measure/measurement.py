"""From samples of the weights to what happened: updates, their order, the momentum really applied, the lag."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from hjepa.audit.measure.student_changes import StudentChange, kind_of_change
from hjepa.audit.measure.tensor_fits import TensorFit, fit_tensors
from hjepa.audit.measure.traced_updates import traced_updates
from hjepa.audit.measure.update_fits import explain, rounding_of, segments_of
from hjepa.audit.measure.updates import INSIDE_STEP, Update
from hjepa.audit.measure.walk import Walk
from hjepa.audit.observe.program.tensor_pairs import TensorPair
from hjepa.audit.observe.recording import Kind, Recording


@dataclass
class Measurement:
    """Everything that the rules need to know about values."""

    updates: list[Update]
    tensors: list[TensorFit]
    steps: int  # optimizer steps seen
    effective: int  # of these, those that changed the student
    skipped: int  # optimizer steps that were skipped
    by_optimizer: int  # steps in which the optimizer moved the teacher
    changes: list[StudentChange]  # of the student outside its optimizers' steps, that stayed until it was trained
    lent: int  # times that weights were exchanged for something else than training, and put back
    lags: list[tuple[int, int]]  # (optimizer step, lag) at each teacher forward in training
    per_step: float | None
    per_interval: int = 1  # updates between two snapshots, where tracing counted them
    writes_counted: bool = True  # whether tracing saw the writes of an update
    longest_life: int = 0  # most students that one teacher lived to see before another took its place
    micro_batches: float = 1.0
    evaluations: int = 0  # forwards of the teacher in modes in which it makes no target
    notes: list[str] = field(default_factory=list)

    @property
    def regular(self) -> list[Update]:
        """Updates that took in a new student, in order."""
        return [update for update in self.updates if update.first]

    @property
    def fitted(self) -> list[Update]:
        """Updates with a momentum."""
        return [update for update in self.updates if update.fit is not None]


def measure(recording: Recording, pairs: Sequence[TensorPair]) -> Measurement:
    """Return what the events and samples show."""
    walk = Walk(recording)
    walk.run()
    rounding = rounding_of(pairs)
    segments = segments_of(pairs)
    for update in walk.updates:
        explain(update, walk.previous.get(update.version), rounding, segments, walk.current.get(update.step))
    by_optimizer = [u for u in walk.updates if _is_the_optimizers(u)]
    walk.updates = [u for u in walk.updates if not any(u is other for other in by_optimizer)]
    quiet = _without_rounding(walk)
    _find_first(walk.updates)
    _find_evaluations(walk)
    result = Measurement(
        walk.updates,
        fit_tensors(walk.updates, walk, pairs, rounding),
        steps=recording.steps,
        effective=walk.version,
        skipped=walk.skips,
        by_optimizer=walk.by_optimizer + len(by_optimizer),
        changes=[StudentChange(change.step, kind_of_change(change, segments)) for change in walk.training.changes],
        lent=walk.training.lent,
        lags=walk.lags(),
        per_step=_per_step(walk, quiet),
        micro_batches=walk.micro_batches,
        evaluations=len(walk.training.evaluations),
        longest_life=walk.longest_life(),
    )
    counted = traced_updates(recording, walk, pairs)
    result.per_interval, result.writes_counted = counted or 1, counted is not None
    return result


def _find_evaluations(walk: Walk) -> None:
    """Mark updates between two forwards of the teacher alone, now and then: the first of the two made no target."""
    between = [
        update
        for update in walk.updates
        if update.teacher_alone and not update.first and update.after.kind is Kind.TEACHER_FORWARD
    ]
    if len({update.step for update in between}) < max(2, walk.version / 2):  # else: several in each step
        for update in between:
            update.evaluation = True


def _is_the_optimizers(update: Update) -> bool:
    """Return whether an optimizer that holds the teacher moved it, not towards the student."""
    if update.position != INSIDE_STEP or not update.held_by_optimizer:
        return False
    fit = update.fit
    return fit is None or not fit.explains or 1 - fit.momentum < 10 * fit.error or abs(fit.excess) > 1e-5


def _without_rounding(walk: Walk) -> set[int]:
    """Drop updates of which nothing but rounding is seen, between networks that are equal; return their steps.

    Such an update ran, and says nothing: the student has not moved since the last one, or never has.
    """
    quiet: set[int] = set()
    versions: set[int] = {0}
    kept: list[Update] = []
    for update in walk.updates:
        if _is_rounding(update, told=update.version in versions):
            quiet.add(update.step)
        else:
            kept.append(update)
            versions.add(update.version)
    walk.updates = kept
    return quiet


def _is_rounding(update: Update, *, told: bool) -> bool:
    a, b = update.before.snapshot, update.after.snapshot
    if a is None or b is None or len(a.teacher) != len(b.teacher):
        return False
    moved = (b.teacher - a.teacher).abs()
    spacing = 2.4e-7 * torch.maximum(a.teacher.abs(), b.teacher.abs())  # two units of float32
    if not bool((moved <= spacing).all()):
        return False
    return told or (update.fit is not None and 1 - update.fit.momentum < 1e-6)


def _find_first(updates: Sequence[Update]) -> None:
    """Say which updates are the first since the last optimizer step, whether or not that step moved the student."""
    seen: set[int] = set()
    for update in updates:
        update.first = update.step not in seen
        seen.add(update.step)


def _per_step(walk: Walk, quiet: set[int]) -> float | None:
    """Return updates for each optimizer step that had something to average, between the first and last update."""
    steps = [update.step for update in walk.updates if update.step > 0]
    if len(set(steps)) < 2:
        return None
    first, last = min(steps), max(steps)
    idle = {step for step in range(first, last) if step not in walk.effective and step not in steps} | quiet
    whole = sum(step not in idle or step in steps for step in range(first, last))
    return sum(first <= step < last for step in steps) / max(1, whole)
