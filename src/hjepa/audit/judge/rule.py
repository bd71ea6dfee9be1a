"""A rule and its answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from hjepa.audit.judge.certainty import CERTAINTY, FROM_VALUES
from hjepa.audit.judge.context import AuditContext
from hjepa.audit.judge.findings import Finding, Severity, Status


@dataclass(frozen=True)
class Outcome:
    """A rule's answer; ``severity`` is set only where it differs from the rule's own."""

    status: Status
    saw: str = ""
    expected: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    location: str | None = None
    reason: str = ""
    severity: Severity | None = None
    remedy: str = ""  # replaces the rule's own remedy where that does not fit


@dataclass(frozen=True)
class Rule:
    """A named check."""

    name: str
    code: str
    severity: Severity
    meaning: str
    remedy: str
    check: Callable[[AuditContext], Outcome]

    def judge(self, audit: AuditContext) -> Finding:
        """Return the rule's finding; an error of our own is a reason, never a crash of the audited run."""
        try:
            outcome = self.check(audit)
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


_registered: dict[str, list[Rule]] = {}  # module -> its rules, in the order of its text


def rules_of(module: ModuleType) -> list[Rule]:
    """Return the rules that a module has registered, in the order in which they stand there."""
    return _registered.get(module.__name__, [])


def rule(
    name: str, code: str, severity: Severity, *, meaning: str, remedy: str
) -> Callable[[Callable[[AuditContext], Outcome]], Callable[[AuditContext], Outcome]]:
    """Register a check under its name."""

    def register(check: Callable[[AuditContext], Outcome]) -> Callable[[AuditContext], Outcome]:
        _registered.setdefault(check.__module__, []).append(Rule(name, code, severity, meaning, remedy, check))
        return check

    return register


def digits(momentum: float) -> str:
    """Return a momentum with six decimals, and zero without a sign."""
    return f"{round(momentum, 6) + 0.0:.6f}"


def counted(number: int, noun: str, ending: str = "s") -> str:
    """Return "1 tensor" or "3 tensors"."""
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def passed(saw: str, **evidence: Any) -> Outcome:
    """The rule holds."""
    return Outcome(Status.PASS, saw, evidence=evidence)


def noted(saw: str, **evidence: Any) -> Outcome:
    """Worth knowing, but not a fault."""
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
    saw: str,
    expected: str = "",
    *,
    location: str | None = None,
    severity: Severity | None = None,
    remedy: str = "",
    **evidence: Any,
) -> Outcome:
    """The rule may be broken, or the loop is at risk."""
    return Outcome(Status.WARN, saw, expected, evidence, location, severity=severity, remedy=remedy)


def unchecked(reason: str) -> Outcome:
    """The rule could not be checked; ``reason`` explains why and what to add."""
    return Outcome(Status.NOT_CHECKED, reason=reason)
