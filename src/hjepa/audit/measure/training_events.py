"""Which of the events are of training: neither evaluation nor on weights that were lent.

Weights that were exchanged and put back before the student was trained again were never exchanged, as far as
training goes: such snapshots are left out.  These are rules 2 and 4 of docs/audit-timeline.md.
"""

from collections.abc import Sequence
from typing import Any

from hjepa.audit.measure.updates import Change, same, same_teacher
from hjepa.audit.observe.recording import Event, Kind


class TrainingEvents:
    """Tells events of training from others; ids of events, as events are compared by identity."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.changes: list[Change] = []
        self.lent = 0  # cycles in which weights were exchanged and put back
        self.aside = self._backwards_aside()
        self.exchanged = self._exchanged()
        self.training_modes = self._modes_of_training()
        self.evaluations = self._teacher_evaluations()

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
        begins = cycle[0].kind is Kind.STEP_END  # else nothing is known of the student before the first snapshot
        kept = [used.student] if settled or not begins else []
        kept += [own.student] if begins or not settled else []
        if not settled and begins and len(self.changes) > 1:
            kept += [used.student]  # it is changed after every step, so the last change is no exchange either
        found = {
            id(event)
            for event in cycle
            if event.snapshot is not None and not any(same(event.snapshot.student, one) for one in kept)
        }
        found |= _taken_back([event for event in cycle if id(event) not in found])
        self.lent += bool(found)
        if begins and settled and not same(own.student, used.student):
            self.changes.append(Change(cycle[-1].step, own.student, used.student, used.teacher, own.teacher))
        return found

    def _exchanged_inside(self, cycle: Sequence[Event]) -> set[int]:
        """Return the same for the snapshots inside a step that computes its gradients itself (a closure).

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
            and not same(last.snapshot.student, before.snapshot.student)
        ):
            mine, theirs = before.snapshot, last.snapshot
            self.changes.append(Change(before.step, mine.student, theirs.student, theirs.teacher, mine.teacher))
            return set()
        return {
            id(event)
            for event in inside
            if event.snapshot is not None and not same(event.snapshot.student, before.snapshot.student)
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

    def is_evaluation(self, event: Event) -> bool:
        """Return whether the event is none of training: an evaluation, or on weights that were exchanged."""
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


def _taken_back(cycle: Sequence[Event]) -> set[int]:
    """Return the events (by id) at which the teacher differed between two snapshots in which it was the same.

    An average never comes back to a value that it had, so its weights were exchanged meanwhile.
    """
    found: set[int] = set()
    at = 0
    while at < len(cycle):
        again = next((n for n in range(len(cycle) - 1, at + 1, -1) if same_teacher(cycle[at], cycle[n])), None)
        if again is not None and not all(same_teacher(cycle[at], event) for event in cycle[at:again]):
            found.update(id(event) for event in cycle[at:again] if not same_teacher(cycle[at], event))
        at = again if again is not None else at + 1
    return found
