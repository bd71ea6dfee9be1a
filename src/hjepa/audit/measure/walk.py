"""What happened when: one walk through the events, which finds the updates of the teacher.

The student after step k is read at the END OF STEP k; what it holds at a later event is compared with that.  Updates
are numbered by optimizer steps, whether or not anything can be seen of them.  These are rules 1 and 3 of
docs/audit-timeline.md.
"""

from itertools import pairwise

import torch
from torch import Tensor

from hjepa.audit.measure.training_events import TrainingEvents
from hjepa.audit.measure.updates import (
    AFTER_STEP,
    BEFORE_STEP,
    BETWEEN_FORWARDS,
    BETWEEN_MICRO_BATCHES,
    INSIDE_STEP,
    Update,
    same,
    same_teacher,
)
from hjepa.audit.observe.recording import Event, Kind, Recording


class Walk:
    """Goes through the events once and finds the updates, and what else moved."""

    def __init__(self, recording: Recording) -> None:
        self.events = recording.events
        self.updates: list[Update] = []
        self.effective: set[int] = set()  # optimizer steps, counted from 1, that changed the student
        self.version = 0
        self.skips = 0
        self.by_optimizer = 0
        self.micro_batches = 1.0
        self.versions: list[int] = []  # the student's version at each event
        self.previous: dict[int, Tensor] = {}  # version -> the student before it became this one
        self.current: dict[int, Tensor] = {}  # steps finished -> the student at the end of the last of them
        self.snapshots = [event for event in self.events if event.snapshot is not None]
        self.training = TrainingEvents(self.events)

    def run(self) -> None:
        """Find the updates."""
        last: Event | None = None
        forwards: set[Kind] = set()  # of training, since the last optimizer step
        backwards = 0
        counts: list[int] = []
        alone = False
        updated: set[int] = set()
        between = False  # snapshots that were left out since the last one
        for number, event in enumerate(self.events):
            if event.kind is Kind.REPLACED:
                last = None  # another module: what changed is not an update
            if event.snapshot is not None and id(event) in self.training.exchanged:
                between = True
            elif event.snapshot is not None:
                if last is not None and last.snapshot is not None:
                    if event.kind is Kind.TEACHER_FORWARD and alone and not same_teacher(last, event):
                        forwards.discard(Kind.TEACHER_FORWARD)  # no pass of training has an update in its middle
                    self._compare(last, event, number, forwards, backwards, updated, alone=alone, between=between)
                if event.kind is Kind.STEP_END and last is not None:
                    self._student_moved(number, event)
                last, between = event, False
            self.versions.append(self.version)
            if event.kind in (Kind.STUDENT_FORWARD, Kind.BACKWARD, Kind.STEP, Kind.STEP_END):
                alone = False
            elif event.kind is Kind.TEACHER_FORWARD:
                alone = not backwards and Kind.STUDENT_FORWARD not in forwards
            if event.kind in (Kind.TEACHER_FORWARD, Kind.STUDENT_FORWARD) and not self.training.is_evaluation(event):
                forwards.add(event.kind)
            elif event.kind is Kind.BACKWARD and id(event) in self.training.aside:
                forwards, backwards = set(), 0  # what ran before it was for the other network
            elif event.kind is Kind.BACKWARD and id(event) not in self.training.exchanged:
                backwards = 1 if event.facts.get("cleared") else backwards + 1
            elif event.kind is Kind.STEP_END:
                if not event.facts.get("continues"):
                    counts.append(backwards)
                forwards, backwards = set(), 0
        self._count_skips()
        known = sorted(counts[1:])  # the first was perhaps seen only in part
        if known:
            self.micro_batches = known[len(known) // 2]

    def _student_moved(self, number: int, after: Event) -> None:
        before = next(event for event in reversed(self.events[:number]) if event.kind is Kind.STEP)
        assert after.snapshot is not None
        steps = after.step + (not after.facts.get("continues"))
        self.current[steps] = after.snapshot.student
        if before.snapshot is None or torch.equal(before.snapshot.student, after.snapshot.student):
            return
        if after.facts.get("continues") and steps in self.effective:
            return  # another optimizer of the same round
        self.effective.add(steps)
        self.version += 1
        self.previous[self.version] = before.snapshot.student

    def _compare(
        self,
        last: Event,
        event: Event,
        number: int,
        forwards: set[Kind],
        backwards: int,
        updated: set[int],
        *,
        alone: bool,
        between: bool,
    ) -> None:
        a, b = last.snapshot, event.snapshot
        assert a is not None and b is not None
        inside = event.kind is Kind.STEP_END
        if a.teacher.shape != b.teacher.shape or same(a.teacher, b.teacher):
            return
        if inside and self._optimizer_moves_teacher(number):
            self.by_optimizer += 1
            return
        begin = next((e for e in reversed(self.events[:number]) if e.kind is Kind.STEP), None) if inside else None
        moved = begin is not None and begin.snapshot is not None and not torch.equal(begin.snapshot.student, b.student)
        continues = bool(event.facts.get("continues"))
        version = self.version + (1 if moved and not (continues and event.step in self.effective) else 0)
        if inside and version > self.version and begin is not None and begin.snapshot is not None:
            self.previous[version] = begin.snapshot.student
        step = event.step + 1 if inside and not continues else event.step
        update = Update(
            step=step,
            version=version,
            position=self._position(last, event, forwards, backwards),
            before=last,
            after=event,
            first=step not in updated,
            evaluation=self.training.evaluates(event)
            or self.training.evaluates(last)
            or (alone and id(last) in self.training.evaluations)
            or (between and step in updated),
            teacher_alone=alone,
            skipped=self._skipped(number, backwards, forwards, step in updated),
            skips=self.skips,
            student_changed=not inside and not same(a.student, b.student),
            held_by_optimizer=inside and self._held(number),
        )
        updated.add(step)
        self.updates.append(update)

    def _held(self, number: int) -> bool:
        step = next(event for event in reversed(self.events[:number]) if event.kind is Kind.STEP)
        return bool(step.facts.get("teacher_held"))

    def _optimizer_moves_teacher(self, number: int) -> bool:
        """Return whether the step that ends here trains the teacher as well."""
        step = next(event for event in reversed(self.events[:number]) if event.kind is Kind.STEP)
        return bool(step.facts.get("teacher_held") and step.facts.get("teacher_gradients"))

    @staticmethod
    def _position(last: Event, event: Event, forwards: set[Kind], backwards: int) -> str:
        if event.kind is Kind.STEP_END:
            return INSIDE_STEP
        if Kind.TEACHER_FORWARD not in forwards:
            if Kind.STUDENT_FORWARD in forwards and event.kind is Kind.TEACHER_FORWARD:
                return BETWEEN_FORWARDS
            return BEFORE_STEP if Kind.STUDENT_FORWARD in forwards and backwards else AFTER_STEP
        if backwards and event.kind in (Kind.TEACHER_FORWARD, Kind.STUDENT_FORWARD):
            return BETWEEN_MICRO_BATCHES
        return BEFORE_STEP

    # ------------------------------------------------------------------ skipped steps

    def _skipped(self, number: int, backwards: int, forwards: set[Kind], again: bool) -> bool:
        """Return whether the optimizer step before this update did not happen."""
        if again and not backwards and Kind.STUDENT_FORWARD in forwards:
            self.skips += 1
            return True  # forwards in training, but neither backward nor step: a loss guard
        if not backwards:  # right after a step: was it one?
            for event in reversed(self.events[:number]):
                if event.kind is Kind.STEP:
                    return bool(event.facts.get("found_inf"))
                if event.kind is Kind.SCALER_STEP and event.facts.get("stepped") is False:
                    return True
            return False
        for event in reversed(self.events[:number]):
            if event.kind is Kind.STEP_END:
                break
            if event.kind is Kind.SCALER_STEP and event.facts.get("stepped") is False:
                return True
        for event in self.events[number:]:
            if event.facts.get("cleared"):
                return True
            if event.kind in (Kind.BACKWARD, Kind.STEP):
                return False
        return False

    def _count_skips(self) -> None:
        fresh = False  # a forward of the student in training since its last backward pass
        for number, event in enumerate(self.events):
            thrown_away = event.kind is Kind.SCALER_STEP and event.facts.get("stepped") is False
            if thrown_away or (event.kind is Kind.STEP and event.facts.get("found_inf")):
                self.skips += 1
            elif event.kind is Kind.STUDENT_FORWARD and not self.training.is_evaluation(event):
                fresh = True
            elif event.kind is Kind.BACKWARD:
                # Gradients that were taken aside (one pass for each loss, SAM's first) are not thrown away.
                if event.facts.get("cleared") and fresh and id(event) not in self.training.exchanged:
                    before = [e for e in self.events[:number] if e.kind in (Kind.SCALER_STEP, Kind.BACKWARD)]
                    self.skips += not before or not (
                        before[-1].kind is Kind.SCALER_STEP
                        or id(before[-1]) in (self.training.aside | self.training.exchanged)
                    )
                fresh = False

    # ------------------------------------------------------------------ what follows from it

    def longest_life(self) -> int:
        """Return the most versions of the student that were seen between two replacements of the teacher."""
        replaced = [self.versions[n] for n, event in enumerate(self.events) if event.kind is Kind.REPLACED]
        return max(after - before for before, after in pairwise([0, *replaced, self.version]))

    def lags(self) -> list[tuple[int, int]]:
        """Return (optimizer step, student versions missing) at each teacher forward in training."""
        if not self.updates:
            return []
        found = []
        position = 0
        contained = 0
        order = {id(event): number for number, event in enumerate(self.events)}
        for number, event in enumerate(self.events):
            while position < len(self.updates) and order[id(self.updates[position].after)] <= number:
                update = self.updates[position]
                old = update.stale is not None and update.stale > 0.5
                contained = max(contained, update.version - (1 if old else 0))
                position += 1
            trains = (
                event.kind is Kind.TEACHER_FORWARD
                and event.snapshot is not None
                and not self.training.is_evaluation(event)
            )
            if trains and self.versions[number] > 0:
                found.append((event.step, self.versions[number] - contained))
        return found
