"""The content of a report before it is formatted: the order of the findings, their words and their events.

Sentences are marked text: plain text with `code` between backticks. Each format renders it in its own way.
"""

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import NamedTuple

from hjepa.audit.judge.findings import Finding, Result, Severity, Status, Verdict
from hjepa.audit.specs.spec import ORDER_WORDS
from hjepa.audit.tell.vocabulary import RULE_WORDS

_KEY_FACTS = ("stale-student", "momentum-mismatch", "gradient-reaches-teacher", "initial-mismatch", "hard-copy")


def clean(text: str) -> str:
    """Return the text without control characters and lone surrogates; newlines and tabs stay."""
    return "".join(c for c in text if c in "\n\t" or not (_is_control(ord(c)) or 0xD800 <= ord(c) <= 0xDFFF))


def _is_control(point: int) -> bool:
    return point < 0x20 or 0x7F <= point < 0xA0 or point in (0x2028, 0x2029, 0xFFFE, 0xFFFF)


def one_line(text: str) -> str:
    """Return the text on one line, without control characters."""
    return " ".join(clean(text).split())


def quoted(name: str) -> str:
    """Return a name as code in marked text."""
    return f"`{one_line(name).replace('`', chr(39)) or '-'}`"


def marked_parts(text: str) -> list[tuple[bool, str]]:
    """Split marked text into (is code, words)."""
    pieces = re.split(r"`([^`]+)`", one_line(text))
    return [(bool(i % 2), piece) for i, piece in enumerate(pieces) if piece]


def lower_first(text: str) -> str:
    """Return the text for use inside a sentence."""
    first = text.split(" ", 1)[0]
    return text if first.startswith("NaN") or (len(first) > 1 and first[1].isupper()) else text[:1].lower() + text[1:]


def sentence(text: str) -> str:
    """Return the text with a capital, unless it begins with a name, and with a full stop."""
    text = one_line(text)
    first = text.partition(" ")[0]
    text = text[:1].upper() + text[1:] if first.isalpha() and first.islower() else text
    return text if not text or text[-1] in ".:;?" else f"{text}."


def listed(words: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def count(number: int, noun: str) -> str:
    """Return "1 rule" or "3 rules"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def requirement(finding: Finding) -> str:
    """Return the requirement of the rule, in words."""
    return RULE_WORDS.get(finding.rule, (finding.rule.replace("-", " ").capitalize(),))[0]


def fault(finding: Finding) -> str:
    """Return what is wrong when the rule fails, in words."""
    return RULE_WORDS.get(finding.rule, ("", finding.rule.replace("-", " ").capitalize()))[1]


def observed(finding: Finding) -> str:
    """Return the numbers of a finding in one sentence."""
    if finding.saw:
        return finding.saw
    simple = {key: value for key, value in finding.evidence.items() if isinstance(value, (int, float, str))}
    return ", ".join(f"{key} {value}" for key, value in list(simple.items())[:4])


def is_stale_alone(report: Result) -> bool:
    """Whether the only failure is a teacher that lags one step behind, which is minor."""
    return [finding.rule for finding in report.failures] == ["stale-student"]


def issues_heading(report: Result) -> str:
    """Return a heading for the issues that is no more alarming than the worst finding."""
    if any(finding.severity.is_grave for finding in report.failures):
        return "Critical issues"
    if report.failures:
        return "Deviations"
    return "Warnings" if report.with_status(Status.WARN) else "Issues"


def no_issue(report: Result) -> str:
    """Return the text shown when there are no issues."""
    checked = any(finding.status is not Status.NOT_CHECKED for finding in report.findings)
    return "None of the checked rules failed." if checked else "No rule could be checked."


def all_checked(report: Result) -> str:
    """Return the text shown when no rule is listed as not checked."""
    return "Every rule was checked." if report.findings else "No rule was checked."


def tallies(report: Result) -> list[tuple[Status, int]]:
    """Return how many rules have each status, without those that none has."""
    counts = [(status, len(report.with_status(status))) for status in Status]
    return [(status, number) for status, number in counts if number]


def executive_summary(report: Result) -> tuple[str, str]:
    """Return two sentences, one on what is right and one on what is wrong."""
    return _what_is_right(report), _what_is_wrong(report)


def _what_is_right(report: Result) -> str:
    passed = report.with_status(Status.PASS)
    checked = len(passed) + len(report.with_status(Status.FAIL, Status.WARN))
    steps = count(report.steps, "optimizer step")
    if not checked:
        return f"No rule could be checked in {steps}."
    by_rule = {finding.rule: finding for finding in passed}
    facts = [lower_first(requirement(by_rule[rule])) for rule in _KEY_FACTS if rule in by_rule][:3]
    held = f"{len(passed)} of {count(checked, 'checked rule')} passed in {steps}"
    return f"{held}: {listed(facts)}." if facts else f"{held}."


def _what_is_wrong(report: Result) -> str:
    spec = _standard(report)
    failed, warned = report.failures, report.with_status(Status.WARN)
    if report.verdict is Verdict.INCONCLUSIVE and not failed:
        why = one_line(report.reason).rstrip(".")
        return f"This is too little for a verdict{': ' + lower_first(why) if why else ''}."
    if is_stale_alone(report):
        return f"There is one measurable deviation: {_named(failed)}, which makes the teacher {_older(report)}."
    if any(finding.severity.is_grave for finding in failed):
        return f"The training loop does not follow {spec}: {_named(failed)}."
    if failed:
        if any(finding.severity is Severity.MINOR for finding in failed):
            return f"{count(len(failed), 'deviation')} from {spec}: {_named(failed)}."
        return f"The loop follows {spec}, with {count(len(failed), 'point')} of good practice to fix: {_named(failed)}."
    unchecked = len(report.with_status(Status.NOT_CHECKED))
    tail = f"; {count(unchecked, 'rule')} could not be checked (the report explains why)" if unchecked else ""
    if warned:
        return f"No rule failed, with {count(len(warned), 'warning')}: {_named(warned)}{tail}."
    return f"No deviation from {spec} was found{tail}."


def _standard(report: Result) -> str:
    """Return what the loop was compared with."""
    nothing_given = report.spec == "auto"
    return "the general rules for EMA teachers" if nothing_given else f"the specification {quoted(report.spec)}"


def _named(findings: Sequence[Finding]) -> str:
    words = [f"{lower_first(fault(f))} ({quoted(f.rule)}, {f.severity.value})" for f in findings[:3]]
    more = [count(len(findings) - 3, "more rule")] if len(findings) > 3 else []
    return listed(words + more)


def _older(report: Result) -> str:
    lag = report.measured.lag
    lag = lag if lag is not None and math.isfinite(lag) and lag > 0 else 1.0
    words = "one optimizer step older" if round(lag, 1) == 1 else f"{lag:.1f} optimizer steps older"
    shares = sorted(m for m in report.measured.momentum if 0 < m < 1)
    if not shares:
        return words
    age = shares[len(shares) // 2] / (1 - shares[len(shares) // 2])
    return f"{words} than its mean age of about {age:,.0f} steps" if age >= 2 else words


def recommendations(report: Result) -> list[str]:
    """Return what to do next, most important first."""
    severe = [f for f in report.failures if f.severity.is_grave]
    mild = [f for f in report.failures if f not in severe]
    lines = []
    if severe:
        lines.append(
            f"Fix {_rules(severe)} first: so far this run has trained with a different algorithm, not with what "
            f"{_standard(report)} {'require' if report.spec == 'auto' else 'requires'}."
        )
    if is_stale_alone(report):
        lines.append(
            "Move the update after the optimizer step when convenient. Finished runs need not be repeated for this "
            "alone; it matters if a run must match a reference step by step."
        )
    elif mild:
        lines.append(f"{'Then fix' if severe else 'Fix'} {_rules(mild)}; the run may still be useful.")
    if warned := report.with_status(Status.WARN):
        lines.append(f"Check the warnings of {_rules(warned)}.")
    if report.failures:
        lines.append("Run the same audit again after the fix; it should end with exit code 0.")
    if report.verdict is Verdict.INCONCLUSIVE:
        lines.append("Add what is missing (see above) and audit again.")
    elif not report.failures:
        lines.append(
            "Keep the audit in your test suite (`report.raise_for_failures()`), so that later changes to the loop are "
            "checked too."
        )
    if unsettled := report.measured.not_identifiable:
        lines.append(
            f"Not determined: {listed([one_line(name) for name in unsettled])}. More steps (`--steps`) may help."
        )
    return lines


def _rules(findings: Sequence[Finding]) -> str:
    return listed(list(dict.fromkeys(quoted(finding.rule) for finding in findings)))


def how_to_choose(report: Result) -> list[tuple[str, str]]:
    """Return the candidates, each with the options that select it; exact for "student NAME, teacher NAME"."""
    choices = []
    for candidate in report.subject.candidates:
        names = re.fullmatch(r"student (\S+), teacher (\S+)", one_line(candidate))
        student, teacher = map(shlex.quote, names.groups()) if names else ("NAME", "NAME")
        choices.append((candidate, f"--student {student} --teacher {teacher}"))
    return choices


def update_facts(report: Result) -> str:
    """Return when and how often the teacher was updated, in one sentence of marked text."""
    measured = report.measured
    facts = []
    if measured.order:
        where = ORDER_WORDS.get(measured.order)
        facts.append(f"teacher updated {where} (order {measured.order})" if where else f"order {measured.order}")
    if measured.updates_per_step is not None:
        facts.append(f"{measured.updates_per_step:.2f} updates per optimizer step")
    if measured.lag is not None:
        error = f" ± {measured.lag_error:.2g}" if measured.lag_error else ""
        facts.append(f"lag of {measured.lag:.2f}{error} steps at the teacher's forward")
    if not report.steps:
        return "Measured: nothing."
    facts.append(f"{measured.schedule} schedule" if measured.schedule else "schedule not identifiable from these steps")
    return f"Measured: {'; '.join(facts)}."


def subject_lines(report: Result) -> list[tuple[str, str]]:
    """Return what was watched, as names and marked text."""
    subject = report.subject
    size = f"{count(subject.parameters, 'parameter')} in {count(subject.tensors, 'tensor')}"
    sampled = f", of which {subject.sampled:,} are sampled" if subject.sampled else ""
    lines = [
        ("Ended early", sentence(report.interrupted)),
        ("Script", quoted(subject.script) if subject.script else ""),
        ("Teacher", f"{quoted(subject.teacher)}, {size}{sampled}" if subject.teacher else ""),
        ("Student", quoted(subject.student) if subject.student else ""),
        ("Optimizer", quoted(subject.optimizer) if subject.optimizer else ""),
        ("Wrappers", ", ".join(map(quoted, subject.wrappers))),
        ("How found", subject.discovered),
        ("Versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
    ]
    return [(name, text) for name, text in lines if text]


class Row(NamedTuple):
    """One update: its optimizer step, the measured momentum with standard error, and the specified momentum."""

    step: int
    measured: float
    error: float | None
    expected: float | None


def momentum_rows(report: Result) -> list[Row]:
    """Return the observed updates, without those whose measured momentum is not finite."""
    measured = report.measured
    columns = (measured.momentum, measured.momentum_error, measured.expected, measured.momentum_step)
    rows = []
    for i, (value, error, expected, step) in enumerate(zip_longest(*columns)):
        if _finite(value) is not None:
            rows.append(Row(i if step is None else step, value, _finite(error), _finite(expected)))
    return rows


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def momentum_digits(values: Iterable[float]) -> int:
    """Return the number of decimals that shows the distance from 1 and the differences between the values."""
    values = list(values)
    apart = [abs(1 - value) for value in values] + [max(values, default=0.0) - min(values, default=0.0)]
    smallest = min((distance for distance in apart if 0 < distance < 1), default=0.1)
    return max(4, min(10, 2 - math.floor(math.log10(smallest) + 1e-9)))


MOMENTUM_COLUMNS = ("Optimizer step", "Measured", "Standard error", "Specification", "Difference")


def momentum_cells(report: Result, shown: int = 5) -> list[tuple[str, ...]]:
    """Return the table of `MOMENTUM_COLUMNS`, first and last rows only when it is long."""
    rows = momentum_rows(report)
    digits = momentum_digits(value for row in rows for value in (row.measured, row.expected) if value is not None)

    def number(value: float) -> str:
        return f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.4g}"

    cells: list[tuple[str, ...]] = []
    for row in rows:
        prescribed = (
            ("–", "–") if row.expected is None else (number(row.expected), f"{row.measured - row.expected:+.1e}")
        )
        error = "–" if row.error is None else f"{row.error:.1e}"
        cells.append((str(row.step), number(row.measured), error, *prescribed))
    if len(cells) > 2 * shown + 1:
        cells[shown:-shown] = [("…",) * 5]
    return cells
