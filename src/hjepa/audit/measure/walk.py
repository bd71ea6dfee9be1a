"""What happened when: one walk through the events, which finds the updates of the teacher.

Two rules carry everything (docs/audit-timeline.md).  The student after step k is read at the END OF STEP k; what it
holds at a later event is compared with that.  And weights that were exchanged and put back before the student was
trained again were never exchanged, as far as training goes: such looks are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hjepa.audit.measure.regression import Fit
from hjepa.audit.observe.recording import Event, Kind, Recording

AFTER_STEP, BETWEEN_FORWARDS, BEFORE_STEP = "A", "B'", "C"
INSIDE_STEP, BETWEEN_MICRO_BATCHES = "inside-step", "micro-batch"


@dataclass
class Update:
    """One change of the teacher between two looks of training."""

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


class Walk:
    """Goes through the events once and finds the updates, and what else moved."""

    def __init__(self, recording: Recording) -> None:
        self.events = recording.events
        self.updates: list[Update] = []
        self.effective: set[int] = set()  # optimizer steps, counted from 1, that changed the student
        self.version = 0
        self.skips = 0
        self.by_optimizer = 0
        self.changes: list[Change] = []
        self.lent = 0  # cycles in which weights were exchanged and put back
        self.micro_batches = 1.0
        self.versions: list[int] = []  # the student's version at each event
        self.previous: dict[int, Tensor] = {}  # version -> the student before it became this one
        self.current: dict[int, Tensor] = {}  # steps finished -> the student at the end of the last of them
        self.snapshots = [event for event in self.events if event.snapshot is not None]
        self.aside = self._backwards_aside()
        self.exchanged = self._exchanged()
        self.training_modes = self._modes_of_training()
        self.evaluations = self._teacher_evaluations()

    # ------------------------------------------------------------------ which looks are of training

    def _exchanged(self) -> set[int]:
        """Return the events (by id) at which one of the networks held weights that were taken away again.

        Judged between two steps: what the student is at the beginning of the next step is what is trained, and
        anything else meanwhile that is not its value at the end of the last step was lent (validation on the
        average, a perturbation for the second gradient of SAM).
        """
        found: set[int] = set()
        cycle: list[Event] = []
        for event in self.events:
            if event.snapshot is not None:
                cycle.append(event)
            if event.kind is Kind.STEP:
                found |= self._exchanged_between(cycle, settled=True)
            elif event.kind is Kind.STEP_END:
                found |= self._exchanged_inside(cycle)
                cycle = [event] if event.snapshot is not None else []
        return found | self._exchanged_between(cycle, settled=False)

    def _exchanged_between(self, cycle: Sequence[Event], *, settled: bool) -> set[int]:
        if len(cycle) < 2:
            return set()
        snapshots = [event.snapshot for event in cycle]
        own, used = snapshots[0], snapshots[-1]
        assert own is not None and used is not None
        begins = cycle[0].kind is Kind.STEP_END  # else nothing is known of the student before the first look
        kept = [used.student] if settled or not begins else []
        kept += [own.student] if begins or not settled else []
        if not settled and begins and len(self.changes) > 1:
            kept += [used.student]  # it is changed after every step, so the last change is no exchange either
        found = {
            id(event)
            for event in cycle
            if event.snapshot is not None and not any(_same(event.snapshot.student, one) for one in kept)
        }
        found |= _taken_back([event for event in cycle if id(event) not in found])
        self.lent += bool(found)
        if begins and settled and not _same(own.student, used.student):
            self.changes.append(Change(cycle[-1].step, own.student, used.student, used.teacher))
        return found

    def _exchanged_inside(self, cycle: Sequence[Event]) -> set[int]:
        """Return the same for the looks inside a step that computes its gradients itself (a closure).

        Between two passes of one step the student is the optimizer's own matter (LBFGS, SAM).
        """
        begin = max((n for n, event in enumerate(cycle) if event.kind is Kind.STEP), default=None)
        if begin is None:
            return set()
        before, inside = cycle[begin], cycle[begin + 1 : -1]
        passes = sum(event.kind is Kind.BACKWARD for event in inside)
        last = next((event for event in reversed(inside) if event.kind is Kind.BACKWARD_END), None)
        assert before.snapshot is not None
        if (
            passes == 1
            and last is not None
            and last.snapshot is not None
            and not _same(last.snapshot.student, before.snapshot.student)
        ):
            self.changes.append(
                Change(before.step, before.snapshot.student, last.snapshot.student, last.snapshot.teacher)
            )
            return set()
        return {
            id(event)
            for event in inside
            if event.snapshot is not None and not _same(event.snapshot.student, before.snapshot.student)
        }

    def _modes_of_training(self) -> set[tuple[bool, ...]]:
        """Return the modes in which the student stood in forwards whose loss was differentiated."""
        found: set[tuple[bool, ...]] = set()
        forward: Event | None = None
        for event in self.events:
            if event.kind is Kind.STUDENT_FORWARD and event.facts.get("gradients") is not False:
                forward = event
            elif event.kind is Kind.BACKWARD and forward is not None and forward.snapshot is not None:
                found.add(forward.snapshot.student_modes)
        return found

    def evaluates(self, event: Event) -> bool:
        """Return whether the student is evaluated at this event: without gradient, or in modes of no training.

        A network whose loss is differentiated is training, whatever its mode says.
        """
        if event.kind is Kind.STUDENT_FORWARD and event.facts.get("gradients") is False:
            return True
        if event.kind in (Kind.STEP, Kind.BACKWARD, Kind.BACKWARD_END):
            return False
        modes = event.snapshot.student_modes if event.snapshot is not None else ()
        return bool(modes) and not any(modes) and modes not in self.training_modes

    def _is_evaluation(self, event: Event) -> bool:
        return id(event) in self.evaluations or id(event) in self.exchanged or self.evaluates(event)

    def _teacher_evaluations(self) -> set[int]:
        """Return the teacher's forwards (by id) that are not of training: in modes in which it makes no target."""
        training: set[Any] = set()
        last: Event | None = None
        for event in self.events:
            if event.kind is Kind.TEACHER_FORWARD and not self.evaluates(event) and id(event) not in self.exchanged:
                last = event
            elif event.kind is Kind.BACKWARD and last is not None:
                training.add(last.facts.get("modes"))
            elif event.kind is Kind.STEP_END:
                last = None
        forwards = [event for event in self.events if event.kind is Kind.TEACHER_FORWARD]
        return {id(event) for event in forwards if training and event.facts.get("modes") not in training}

    def _backwards_aside(self) -> set[int]:
        """Return backward passes (by id) for another network, whose gradients in the student were thrown away."""
        found: set[int] = set()
        waiting: list[int] = []
        for event in self.events:
            if event.facts.get("cleared"):
                found.update(waiting)
            if event.facts.get("cleared") or event.kind in (Kind.STEP, Kind.STEP_END):
                waiting = []
            if event.kind is Kind.BACKWARD and event.facts.get("for_another"):
                waiting.append(id(event))
        return found.union(waiting)  # what the window's end cut off was not used either

    # ------------------------------------------------------------------ the walk

    def run(self) -> None:
        """Find the updates."""
        last: Event | None = None
        forwards: set[Kind] = set()  # of training, since the last optimizer step
        backwards = 0
        counts: list[int] = []
        alone = False
        updated: set[int] = set()
        between = False  # looks that were left out since the last one
        for number, event in enumerate(self.events):
            if event.kind is Kind.REPLACED:
                last = None  # another module: what changed is not an update
            if event.snapshot is not None and id(event) in self.exchanged:
                between = True
            elif event.snapshot is not None:
                if last is not None and last.snapshot is not None:
                    if event.kind is Kind.TEACHER_FORWARD and alone and not _same_teacher(last, event):
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
            if event.kind in (Kind.TEACHER_FORWARD, Kind.STUDENT_FORWARD) and not self._is_evaluation(event):
                forwards.add(event.kind)
            elif event.kind is Kind.BACKWARD and id(event) in self.aside:
                forwards, backwards = set(), 0  # what ran before it was for the other network
            elif event.kind is Kind.BACKWARD and id(event) not in self.exchanged:
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
        if a.teacher.shape != b.teacher.shape or _same(a.teacher, b.teacher):
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
            evaluation=self.evaluates(event)
            or self.evaluates(last)
            or (alone and id(last) in self.evaluations)
            or (between and step in updated),
            teacher_alone=alone,
            skipped=self._skipped(number, backwards, forwards, step in updated),
            skips=self.skips,
            student_changed=not inside and not _same(a.student, b.student),
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
            elif event.kind is Kind.STUDENT_FORWARD and not self._is_evaluation(event):
                fresh = True
            elif event.kind is Kind.BACKWARD:
                # Gradients that were taken aside (one pass for each loss, SAM's first) are not thrown away.
                if event.facts.get("cleared") and fresh and id(event) not in self.exchanged:
                    before = [e for e in self.events[:number] if e.kind in (Kind.SCALER_STEP, Kind.BACKWARD)]
                    self.skips += not before or not (
                        before[-1].kind is Kind.SCALER_STEP or id(before[-1]) in (self.aside | self.exchanged)
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
                event.kind is Kind.TEACHER_FORWARD and event.snapshot is not None and not self._is_evaluation(event)
            )
            if trains and self.versions[number] > 0:
                found.append((event.step, self.versions[number] - contained))
        return found


def _taken_back(cycle: Sequence[Event]) -> set[int]:
    """Return the events (by id) at which the teacher differed between two looks at which it was the same.

    An average never comes back to a value that it had, so its weights were exchanged meanwhile.
    """
    found: set[int] = set()
    at = 0
    while at < len(cycle):
        again = next((n for n in range(len(cycle) - 1, at + 1, -1) if _same_teacher(cycle[at], cycle[n])), None)
        if again is not None and not all(_same_teacher(cycle[at], event) for event in cycle[at:again]):
            found.update(id(event) for event in cycle[at:again] if not _same_teacher(cycle[at], event))
        at = again if again is not None else at + 1
    return found


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(torch.nan_to_num(a, nan=0.5), torch.nan_to_num(b, nan=0.5)) and torch.equal(a.isnan(), b.isnan())


def _same_teacher(before: Event, after: Event) -> bool:
    a, b = before.snapshot, after.snapshot
    return a is None or b is None or a.teacher.shape != b.teacher.shape or _same(a.teacher, b.teacher)
