"""What an audit concludes: findings, measurements and the verdict.  Plain data, no torch."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class Status(enum.StrEnum):
    """The outcome of a rule."""

    PASS = "pass"
    FAIL = "fail"
    WARN = "warn"
    INFO = "info"
    NOT_CHECKED = "not-checked"


class Severity(enum.StrEnum):
    """How much a deviation matters (docs/audit.md)."""

    CRITICAL = "critical"  # no working EMA teacher, or the targets leak
    MAJOR = "major"  # silently a different algorithm
    MINOR = "minor"  # a measurable deviation from the specification
    INFO = "info"  # good practice

    @property
    def rank(self) -> int:
        """3 for critical down to 0 for info."""
        return ("info", "minor", "major", "critical").index(self.value)

    @property
    def is_grave(self) -> bool:
        """Whether a failure of this severity means that a different algorithm runs."""
        return self.rank >= 2


class Verdict(enum.StrEnum):
    """The audit in one word; ``exit_code`` is what the command line returns."""

    CONFORMS = "conforms"
    DEVIATES = "deviates"
    FAILS = "fails"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> int:
        """0 conforms, 1 deviates or fails, 3 inconclusive."""
        return {"conforms": 0, "deviates": 1, "fails": 1, "inconclusive": 3}[self.value]


@dataclass(frozen=True)
class Finding:
    """The result of one rule on one run.

    ``saw`` states the observation with its numbers in one sentence; ``evidence`` holds the same numbers in
    machine-readable form. ``meaning`` describes the effect on training, ``remedy`` the fix as a short diff-like
    hint. For ``not-checked``, ``reason`` explains why and what to add. ``certainty`` states how certain a failure
    is and what would make it more certain.
    """

    rule: str
    code: str
    status: Status
    severity: Severity
    saw: str = ""
    expected: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    location: str | None = None
    meaning: str = ""
    remedy: str = ""
    reason: str = ""
    certainty: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the stable machine-readable form."""
        return {
            "rule": self.rule,
            "code": self.code,
            "status": self.status.value,
            "severity": self.severity.value,
            "saw": self.saw,
            "expected": self.expected,
            "evidence": dict(self.evidence),
            "location": self.location,
            "meaning": self.meaning,
            "remedy": self.remedy,
            "reason": self.reason,
            "certainty": self.certainty,
        }


@dataclass(frozen=True)
class TimelineEntry:
    """One recorded event: ``what`` in words, the optimizer step it belongs to, and its location in the code."""

    step: int
    what: str
    location: str | None = None


@dataclass(frozen=True)
class Measured:
    """What happened, measured from the weights.

    ``order``: A (update after the step), B (before the next forward), B' (between student and teacher
    forward), C (between forward and step), ``inside-step``, ``mixed`` or None. ``lag`` is the number of
    optimizer steps that the teacher's forward misses, averaged over forwards. ``momentum`` has one value per
    observed update, the teacher's coefficient; ``momentum_error`` is its standard error; ``expected`` is the
    value specified for the same update (None where there is none). ``schedule`` is linear, cosine, constant,
    per-epoch, or None when it cannot be identified from these steps.
    """

    order: str | None = None
    lag: float | None = None
    lag_error: float | None = None
    updates_per_step: float | None = None
    momentum: Sequence[float] = ()
    momentum_error: Sequence[float] = ()
    momentum_step: Sequence[int] = ()
    expected: Sequence[float | None] = ()
    schedule: str | None = None
    not_identifiable: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the stable machine-readable form."""
        return {
            "order": self.order,
            "lag": self.lag,
            "lag_error": self.lag_error,
            "updates_per_step": self.updates_per_step,
            "momentum": list(self.momentum),
            "momentum_error": list(self.momentum_error),
            "momentum_step": list(self.momentum_step),
            "expected": list(self.expected),
            "schedule": self.schedule,
            "not_identifiable": list(self.not_identifiable),
        }


@dataclass(frozen=True)
class Subject:
    """What was audited: the modules' names in the running program, without wrappers."""

    student: str = ""
    teacher: str = ""
    optimizer: str = ""
    script: str = ""
    parameters: int = 0  # of the teacher
    tensors: int = 0
    sampled: int = 0  # parameter values that were sampled
    wrappers: Sequence[str] = ()
    discovered: str = ""  # how the pair was found
    candidates: Sequence[str] = ()  # when several pairs were possible and none was chosen

    def to_json(self) -> dict[str, Any]:
        """Return the stable machine-readable form."""
        return {
            "student": self.student,
            "teacher": self.teacher,
            "optimizer": self.optimizer,
            "script": self.script,
            "parameters": self.parameters,
            "tensors": self.tensors,
            "sampled": self.sampled,
            "wrappers": list(self.wrappers),
            "discovered": self.discovered,
            "candidates": list(self.candidates),
        }


@dataclass(frozen=True)
class Result:
    """What an audit found in one training run.

    ``spec`` names the specification and ``spec_source`` where it is published; ``nearest`` describes the published
    specifications that fit best. ``reason`` explains an inconclusive verdict and what to add; ``interrupted``
    describes how the program ended if it failed.
    """

    verdict: Verdict
    spec: str
    spec_source: str
    nearest: Sequence[str]
    steps: int
    subject: Subject
    measured: Measured
    findings: Sequence[Finding]
    timeline: Sequence[TimelineEntry]
    date: str
    versions: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    interrupted: str = ""

    @property
    def exit_code(self) -> int:
        """What the command line returns: 0 conforms, 1 deviates or fails, 3 inconclusive."""
        return self.verdict.exit_code

    @property
    def failures(self) -> list[Finding]:
        """The rules that failed, worst first."""
        return self.with_status(Status.FAIL)

    def with_status(self, *wanted: Status) -> list[Finding]:
        """Return the findings of these statuses, worst severity first."""
        found = [finding for status in wanted for finding in self.findings if finding.status is status]
        return sorted(found, key=lambda finding: (wanted.index(finding.status), -finding.severity.rank))


def verdict_of(findings: Sequence[Finding], *, steps: int) -> Verdict:
    """Return the verdict, which the worst failure decides; it is inconclusive if too little was observed."""
    failed = [finding.severity for finding in findings if finding.status is Status.FAIL]
    if any(severity.is_grave for severity in failed):
        return Verdict.FAILS
    if failed:
        return Verdict.DEVIATES
    checked = {finding.rule for finding in findings if finding.status is not Status.NOT_CHECKED}
    if steps < 2 or "never-updated" not in checked:
        return Verdict.INCONCLUSIVE
    return Verdict.CONFORMS
