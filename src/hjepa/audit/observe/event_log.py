"""Writes events down as they happen, and says where in the loop the program is."""

from typing import Any

from hjepa.audit.observe.networks import Networks
from hjepa.audit.observe.program.call_site import caller
from hjepa.audit.observe.recording import Event, Kind, Recording, Snapshot

TEACHER, STUDENT, ENCLOSING, TRAINED, NEITHER = "teacher", "student", "enclosing", "trained", "neither"
"""What a module is in the loop."""
LOCATED_STEPS = 3  # steps of which every event's place in the code is noted
EVALUATION_SNAPSHOTS = 16  # samples of the weights between two steps that are spent on evaluation
# Inside a step, what follows these is the optimizer's own work.
_OF_THE_OPTIMIZER = (Kind.STEP, Kind.BACKWARD_END, Kind.OTHER_BACKWARD)


class EventLog:
    """The recording in the making; everything that sees events writes to it and reads where the program is."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self.recording = Recording()
        self.recording.optimizers = [type(optimizer).__name__ for optimizer in networks.optimizers]
        self.last_snapshot: Snapshot | None = None
        self.backwards = 0  # passes through the student since its last step
        self.stepping: list[int] = []  # optimizers (by id) whose step has begun
        self.inside = dict.fromkeys((TEACHER, STUDENT, TRAINED), 0)  # forwards that are under way
        self._snapshots_since_step = 0

    def record(self, kind: Kind, *, snapshot: bool = True, **facts: Any) -> Event:
        """Write an event down, with samples of the weights unless evaluation has used up those of this step."""
        step = self.recording.steps
        event = Event(kind, step, facts=facts)
        if step <= LOCATED_STEPS:
            event.location = caller()
        if snapshot and self._snapshots_since_step < EVALUATION_SNAPSHOTS + 4 * (self.backwards + 1):
            event.snapshot = self.last_snapshot = self.networks.snapshot()
            self._snapshots_since_step += 1
        self.recording.events.append(event)
        return event

    def step_is_over(self) -> None:
        """Let the samples of the next step begin."""
        self._snapshots_since_step = 0

    @property
    def at_work(self) -> bool:
        """Whether the last event is one after which an optimizer that has begun its step works itself."""
        return bool(self.recording.events) and self.recording.events[-1].kind in _OF_THE_OPTIMIZER

    @property
    def in_step(self) -> bool:
        """Whether an optimizer is at work itself (not in a closure that computes its gradients)."""
        return bool(self.stepping) and self.at_work

    @property
    def in_teacher(self) -> bool:
        """Whether the teacher's forward is at work."""
        return self.inside[TEACHER] > 0
