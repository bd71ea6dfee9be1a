"""The result of an audit, and its formats: text, JSON, Markdown, HTML and JUnit XML."""

import json
import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from hjepa.audit.judge.findings import Finding, Measured, Status, Subject, TimelineEntry, Verdict
from hjepa.audit.tell.markdown import markdown_of
from hjepa.audit.tell.page import page_of
from hjepa.audit.tell.phrases import (
    clean,
    count,
    executive_summary,
    fault,
    how_to_choose,
    momentum_digits,
    momentum_rows,
    observed,
    one_line,
    requirement,
    sentence,
    tallies,
    update_facts,
    with_status,
)

WIDTH = 100  # characters of a line of the summary
_LINES = 25  # lines of the summary, at most
_FORMAT = 1  # version of the JSON keys


class ConformanceError(AssertionError):
    """The audited training does not follow its specification, or the audit saw too little to say."""


@dataclass(frozen=True)
class Report:
    """What an audit found in one training run.

    ``spec`` names the specification and ``spec_source`` where it is published; ``nearest`` are lines on
    the specifications that fit best. ``reason`` says for an inconclusive audit what to add, ``interrupted`` how the
    program ended if it did not end well.
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
        return with_status(self, Status.FAIL)

    def to_json(self) -> dict[str, Any]:
        """Return everything under stable keys, as values that JSON has; nan and inf become strings."""
        content = _plain(
            {
                "format": _FORMAT,
                "verdict": self.verdict.value,
                "exit_code": self.exit_code,
                "reason": self.reason,
                "interrupted": self.interrupted,
                "date": self.date,
                "versions": self.versions,
                "spec": self.spec,
                "spec_source": self.spec_source,
                "nearest": self.nearest,
                "steps": self.steps,
                "subject": self.subject.to_json(),
                "measured": self.measured.to_json(),
                "findings": [finding.to_json() for finding in self.findings],
                "timeline": [{"step": e.step, "what": e.what, "location": e.location} for e in self.timeline],
            }
        )
        assert isinstance(content, dict)
        return content

    def json_text(self) -> str:
        """Return `to_json` as text."""
        return json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """Return the report as Markdown, in a reviewer's order."""
        return markdown_of(self)

    def to_html(self) -> str:
        """Return the report as one page that loads nothing."""
        return page_of(self)

    def to_junit(self) -> str:
        """Return JUnit XML with one test case for each rule."""
        return _junit(self)

    def summary(self) -> str:
        """Return at most 25 lines of plain text for a terminal."""
        return "\n".join(line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…" for line in _summary_lines(self))

    def raise_for_failures(self) -> None:
        """Raise `ConformanceError` if a rule failed, or if the audit is inconclusive."""
        if not self.failures and self.verdict.exit_code == 0:
            return
        about = f": {one_line(self.reason)}" if self.reason else ""
        lines = [f"the audit against {one_line(self.spec)!r} ends with {self.verdict.value!r}{about}"]
        for finding in self.failures:
            where = f" at {finding.location}" if finding.location else ""
            remedy = f" Remedy: {finding.remedy}" if finding.remedy else ""
            lines.append(one_line(f"- {finding.rule} ({finding.severity.value}){where}: {observed(finding)}{remedy}"))
        raise ConformanceError("\n".join(lines))


def _plain(value: Any) -> Any:
    """Return the value with only what JSON has; what has no form there becomes a string."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=str)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # a tensor or an array
        return _plain(value.tolist())
    return str(value)


def _junit(report: Report) -> str:
    counts = {
        "tests": str(len(report.findings)),
        "failures": str(len(report.failures)),
        "errors": "0",
        "skipped": str(len(with_status(report, Status.NOT_CHECKED))),
        "time": "0",
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": "hjepa.audit", "timestamp": clean(report.date), **counts}
    )
    properties = ElementTree.SubElement(suite, "properties")
    facts = {"verdict": report.verdict.value, "spec": report.spec, "steps": str(report.steps), "reason": report.reason}
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": clean(value)})
    seen: Counter[str] = Counter()
    for finding in report.findings:
        seen[finding.rule] += 1
        again = f" [{seen[finding.rule]}]" if seen[finding.rule] > 1 else ""  # the same rule for another teacher
        attributes = {"classname": "hjepa.audit", "name": clean(finding.rule) + again, "time": "0"}
        _fill_case(ElementTree.SubElement(suite, "testcase", attributes), finding)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _fill_case(case: ElementTree.Element, finding: Finding) -> None:
    """Write into a test case what its rule found; a pass has nothing to say."""
    if finding.status is Status.NOT_CHECKED:
        ElementTree.SubElement(case, "skipped", {"message": one_line(finding.reason) or "not checked"})
        return
    if finding.status is Status.PASS:
        return
    fields = {
        "Severity": finding.severity.value,
        "Location": finding.location or "",
        "Saw": observed(finding),
        "Expected": finding.expected,
        "Meaning": finding.meaning,
        "Remedy": finding.remedy,
    }
    text = clean("\n".join(f"{name}: {value}" for name, value in fields.items() if value))
    if finding.status is Status.FAIL:
        message = one_line(observed(finding)) or one_line(fault(finding))
        element = ElementTree.SubElement(case, "failure", {"type": finding.severity.value, "message": message})
        element.text = text
    else:
        ElementTree.SubElement(case, "system-out").text = f"{finding.status.value}\n{text}"


def _summary_lines(report: Report) -> list[str]:
    counted = ", ".join(f"{number} {status.value}" for status, number in tallies(report))
    lines = _wrapped(
        f"hjepa audit: {report.verdict.value.upper()}, specification {report.spec}, "
        f"{count(report.steps, 'optimizer step')}"
    )[:2]
    if report.interrupted:
        lines += _wrapped(sentence(report.interrupted), 2)
    lines += [f"  rules: {counted or 'none'}"]
    for words in executive_summary(report):
        lines += _wrapped(words.replace("`", ""), 2)[:4]
    lines += _wrapped(update_facts(report), 2)[:2]
    if rows := momentum_rows(report):
        digits = momentum_digits(row.measured for row in rows)
        low, high = min(row.measured for row in rows), max(row.measured for row in rows)
        lines.append(f"  Momentum {low:.{digits}f} to {high:.{digits}f} in {len(rows)} updates.")
    for candidate, options in how_to_choose(report)[:3]:
        lines += [*_wrapped(f"Candidate: {candidate}", 2)[:1], f"    {options}"]
    shown = with_status(report, Status.FAIL, Status.WARN)
    room = _LINES - len(lines) - 1
    for i, finding in enumerate(shown):
        block = _summary_of(finding)
        if len(block) > room:
            return [*lines, f"  and {len(shown) - i} more, see the report"]
        lines += block
        room -= len(block)
    return lines


def _summary_of(finding: Finding) -> list[str]:
    where = f" at {finding.location}" if finding.location else ""
    head = f"{finding.status.value.upper()} {finding.severity.value} {finding.rule}{where}: "
    lines = _wrapped(head + (observed(finding) or requirement(finding)), 2, hanging=4)[:3]
    remedy = [line.rstrip() for line in clean(finding.remedy).splitlines() if line.strip()]
    changed = [line for line in remedy if line[0] in "+-"]
    return lines + [f"    {line}" for line in (changed or remedy)[:3]]


def _wrapped(text: str, indent: int = 0, hanging: int | None = None) -> list[str]:
    later = " " * (indent if hanging is None else hanging)
    return textwrap.wrap(one_line(text), WIDTH, initial_indent=" " * indent, subsequent_indent=later)
