"""The report in at most 25 lines of plain text for a terminal."""

import textwrap

from hjepa.audit.judge.findings import Finding, Result, Status
from hjepa.audit.tell.phrases import (
    clean,
    count,
    executive_summary,
    how_to_choose,
    momentum_digits,
    momentum_rows,
    observed,
    one_line,
    requirement,
    sentence,
    tallies,
    update_facts,
)

WIDTH = 100  # characters per line of the summary
_LINES = 25  # lines of the summary, at most


def summary_of(report: Result) -> str:
    """Return the summary."""
    return "\n".join(line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…" for line in _summary_lines(report))


def _summary_lines(report: Result) -> list[str]:
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
    shown = report.with_status(Status.FAIL, Status.WARN)
    room = _LINES - len(lines) - 1
    for i, finding in enumerate(shown):
        block = _summary_of(finding)
        if len(block) > room:
            return [*lines, f"  and {len(shown) - i} more (see the report)"]
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
    return textwrap.wrap(
        one_line(text), WIDTH, initial_indent=" " * indent, subsequent_indent=later, break_on_hyphens=False
    )
