"""What a rule gets and what it answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hjepa.audit.judge.certainty import CERTAINTY, FROM_VALUES
from hjepa.audit.judge.findings import Finding, Severity, Status
from hjepa.audit.measure.measurement import Measurement
from hjepa.audit.measure.walk import Update
from hjepa.audit.observe.program.call_site import follows
from hjepa.audit.observe.program.tensor_pairs import Part, Tensors
from hjepa.audit.observe.recording import Event, Kind, Recording
from hjepa.audit.specs import Spec


@dataclass(frozen=True)
class Case:
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
        after = follows(write.stack, steps[-1])
        return None if after is None else not after

    def location(self, kind: Kind) -> str | None:
        """Return where such an event comes from."""
        return next((event.location for event in self.events(kind) if event.location), None)

    @property
    def updates(self) -> list[Update]:
        """All updates that were seen."""
        return self.measured.updates

    @property
    def only_decays(self) -> bool:
        """Whether most updates took in nothing of the student; the rules on averages have nothing to judge then."""
        decayed = sum(update.decay is not None for update in self.updates)
        return decayed >= max(2, len(self.updates) / 2)

    @property
    def fitted(self) -> list[Update]:
        """Updates with a momentum that the student explains."""
        return [update for update in self.measured.updates if update.fit is not None and update.fit.explains]


@dataclass(frozen=True)
class Outcome:
    """A rule's answer; ``severity`` only where it differs from the rule's own."""

    status: Status
    saw: str = ""
    expected: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    location: str | None = None
    reason: str = ""
    severity: Severity | None = None
    remedy: str = ""  # where the rule's own does not fit


@dataclass(frozen=True)
class Rule:
    """A named check."""

    name: str
    code: str
    severity: Severity
    meaning: str
    remedy: str
    check: Callable[[Case], Outcome]

    def judge(self, case: Case) -> Finding:
        """Return the rule's finding; an error of our own is a reason, never a crash of the audited run."""
        try:
            outcome = self.check(case)
        except Exception as error:  # noqa: BLE001  the audited program must not suffer from a rule
            outcome = unchecked(f"the rule itself failed: {type(error).__name__}: {error}")
        return self._finding(outcome)

    def skipped(self, reason: str) -> Finding:
        """Return the finding of a rule that has no meaning here."""
        return self._finding(unchecked(reason))

    def _finding(self, outcome: Outcome) -> Finding:
        trouble = outcome.status in (Status.FAIL, Status.WARN)
        return Finding(
            rule=self.name,
            code=self.code,
            status=outcome.status,
            severity=outcome.severity or self.severity,
            saw=outcome.saw,
            expected=outcome.expected,
            evidence=outcome.evidence,
            location=outcome.location,
            meaning=self.meaning if trouble else "",
            remedy=(outcome.remedy or self.remedy) if trouble else "",
            reason=outcome.reason,
            certainty=CERTAINTY.get(self.name, FROM_VALUES) if trouble else "",
        )


RULES: list[Rule] = []


def rule(
    name: str, code: str, severity: Severity, *, meaning: str, remedy: str
) -> Callable[[Callable[[Case], Outcome]], Callable[[Case], Outcome]]:
    """Register a check under its name."""

    def register(check: Callable[[Case], Outcome]) -> Callable[[Case], Outcome]:
        RULES.append(Rule(name, code, severity, meaning, remedy, check))
        return check

    return register


def digits(momentum: float) -> str:
    """Return a momentum with six decimals; what rounds to zero has no sign."""
    return f"{round(momentum, 6) + 0.0:.6f}"


def passed(saw: str, **evidence: Any) -> Outcome:
    """The rule holds."""
    return Outcome(Status.PASS, saw, evidence=evidence)


def noted(saw: str, **evidence: Any) -> Outcome:
    """Worth knowing, no fault."""
    return Outcome(Status.INFO, saw, evidence=evidence)


def failed(
    saw: str,
    expected: str = "",
    *,
    location: str | None = None,
    severity: Severity | None = None,
    remedy: str = "",
    **evidence: Any,
) -> Outcome:
    """The rule is broken."""
    return Outcome(Status.FAIL, saw, expected, evidence, location, severity=severity, remedy=remedy)


def warned(
    saw: str, expected: str = "", *, location: str | None = None, severity: Severity | None = None, **evidence: Any
) -> Outcome:
    """Perhaps broken, or a hazard."""
    return Outcome(Status.WARN, saw, expected, evidence, location, severity=severity)


def unchecked(reason: str) -> Outcome:
    """Nothing can be said; why, and what to add."""
    return Outcome(Status.NOT_CHECKED, reason=reason)
