"""What a rule gets."""

from collections.abc import Mapping
from dataclasses import dataclass

from hjepa.audit.measure.measurement import Measurement
from hjepa.audit.measure.updates import Update
from hjepa.audit.observe.program.call_site import stands_after
from hjepa.audit.observe.program.tensor_pairs import Part, Tensors
from hjepa.audit.observe.recording import Event, Kind, Recording
from hjepa.audit.specs import Spec


@dataclass(frozen=True)
class AuditContext:
    """One audited subject: what was seen, what was measured, what is prescribed."""

    recording: Recording
    measured: Measurement
    spec: Spec
    tensors: Tensors
    parts: list[Part]
    start_step: int = 0  # of the schedule, when a run is resumed
    schedule: str | None = None  # the kind that the measured momentum shows
    order: str | None = None  # where the update stands in the loop, when that can be told
    replicas: Mapping[int, str] | None = None  # process -> digest of its teacher
    processes: int = 1
    averager: str = ""  # class of a library that holds the teacher (AveragedModel, ModelEmaV3)

    def events(self, *kinds: Kind) -> list[Event]:
        """Return the events of these kinds, in order."""
        return [event for event in self.recording.events if event.kind in kinds]

    def update_location(self) -> str | None:
        """Return where the teacher is written to, if tracing saw it."""
        return next((write.location for write in self.recording.trace.writes if write.location), None)

    def begins_step(self) -> bool | None:
        """Return whether the update stands before the optimizer step in the program's text (order B).

        Between two steps the values of A and B are the same; the place in the code tells them apart.
        None when tracing did not see it.
        """
        steps = [event.facts["stack"] for event in self.events(Kind.STEP) if "stack" in event.facts]
        write = next((write for write in self.recording.trace.writes if write.stack), None)
        if not steps or write is None:
            return None
        before = [e.kind for e in self.recording.events[: write.after] if e.kind in (Kind.STEP, Kind.STEP_END)]
        if before and before[-1] is Kind.STEP:
            return True  # in the closure of a step, which begins with it
        after = stands_after(write.stack, steps[-1])
        return None if after is None else not after

    def location(self, kind: Kind) -> str | None:
        """Return where such an event comes from."""
        return next((event.location for event in self.events(kind) if event.location), None)

    @property
    def updates(self) -> list[Update]:
        """All updates that were seen."""
        return self.measured.updates

    @property
    def one_network(self) -> bool:
        """Whether the teacher has no parameter that is not the student's own: one network under two names."""
        steps = [event.facts["one_network"] for event in self.events(Kind.STEP) if "one_network" in event.facts]
        same = bool(self.parts) and all(part.student is part.teacher for part in self.parts)
        return same or (bool(steps) and all(steps))

    @property
    def shares_memory(self) -> bool:
        """Whether every tensor of the teacher lay in the student's memory in every step."""
        steps = [event.facts["aliased"] for event in self.events(Kind.STEP) if "aliased" in event.facts]
        return bool(steps) and all(len(names) >= len(self.tensors.pairs) > 0 for names in steps)

    @property
    def only_decays(self) -> bool:
        """Whether most updates took in nothing of the student; the rules on averages have nothing to judge then."""
        decayed = sum(update.decay is not None for update in self.updates)
        return decayed >= max(2, len(self.updates) / 2)

    @property
    def fitted(self) -> list[Update]:
        """Updates with a momentum that the student explains."""
        return [update for update in self.measured.updates if update.fit is not None and update.fit.explains]
