"""The report as Markdown, in the order in which a reviewer reads it."""

import re
from collections.abc import Sequence

from hjepa.audit.judge.findings import Finding, Result, Status, Verdict
from hjepa.audit.tell.phrases import (
    MOMENTUM_COLUMNS,
    all_checked,
    clean,
    count,
    executive_summary,
    fault,
    how_to_choose,
    issues_heading,
    marked_parts,
    momentum_cells,
    no_issue,
    observed,
    one_line,
    quoted,
    recommendations,
    requirement,
    sentence,
    subject_lines,
    tallies,
    update_facts,
)
from hjepa.audit.tell.timeline import event_words, events, explained_by_events, is_update
from hjepa.audit.tell.vocabulary import SEVERITIES, VERDICTS


def markdown_of(report: Result) -> str:
    """Return the whole report as Markdown."""
    title = quoted(report.subject.script) if report.subject.script else "a training loop"
    sections = [
        [f"# Audit of {prose(title)}: {report.verdict.value}"],
        _status(report),
        ["## Executive summary", " ".join(prose(sentence) for sentence in executive_summary(report))],
        _what_to_add(report),
        _issues(report),
        _correct(report),
        ["## Comparison with the specification", _comparison(report)],
        _momentum(report),
        ["## Recommendations", "\n".join(f"{i}. {prose(line)}" for i, line in enumerate(recommendations(report), 1))],
        _not_checked(report),
    ]
    return "\n\n".join(block for section in sections for block in section if block) + "\n"


def prose(text: str) -> str:
    """Return marked text as Markdown on one line; only backticks start markup in it."""
    return "".join(f"`{words}`" if code else _escaped(words) for code, words in marked_parts(text))


def cell(text: str) -> str:
    """Return marked text for a table cell."""
    parts = marked_parts(text)
    words = (f"`{w}`" if code and "|" not in w else _escaped(w).replace("|", "&#124;") for code, w in parts)
    return "".join(words) or "–"


def _escaped(words: str) -> str:
    words = re.sub(r"([\\`*\[\]~$])", r"\\\1", words)
    words = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", words)
    words = re.sub(r"&(?=#?\w+;)", "&amp;", words)
    return words.replace("<", "&lt;")


def fenced(text: str) -> str:
    """Return a hint as a fenced block that its content cannot close."""
    text = clean(text).strip("\n")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    language = "diff" if re.search(r"^[+-]", text, re.MULTILINE) else "text"
    return f"{fence}{language}\n{text}\n{fence}"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table of marked text."""
    lines = [" | ".join(map(cell, row)) for row in rows]
    return "\n".join(f"| {line} |" for line in (" | ".join(head), " | ".join("---" for _ in head), *lines))


def _status(report: Result) -> list[str]:
    counted = ", ".join(f"{number} {status.value}" for status, number in tallies(report))
    source = f", {report.spec_source}" if report.spec_source else ""
    lines = [
        ("Verdict", f"{report.verdict.value} (exit code {report.exit_code}). {VERDICTS[report.verdict]}"),
        ("Date", report.date),
        ("Specification", f"{quoted(report.spec)}{source}"),
        ("Watched", count(report.steps, "optimizer step")),
        ("Rules", counted),
        *subject_lines(report),
    ]
    return ["## Status", "\n".join(f"- **{name}:** {prose(text)}" for name, text in lines)]


def _what_to_add(report: Result) -> list[str]:
    choices = how_to_choose(report)
    if report.verdict is not Verdict.INCONCLUSIVE and not choices:
        return []
    blocks = ["## What to add", prose(sentence(report.reason))]
    if choices:
        blocks.append("Several pairs are possible. Choose one with its options, placed before the script:")
        blocks.append("\n".join(f"- {prose(quoted(name))}: {prose(quoted(options))}" for name, options in choices))
        blocks.append(fenced(f"hjepa audit {choices[0][1]} {one_line(report.subject.script) or 'train.py'}"))
    return blocks


def _issues(report: Result) -> list[str]:
    issues = report.with_status(Status.FAIL, Status.WARN)
    blocks = [f"## {issues_heading(report)}"]
    if not issues:
        blocks.append(no_issue(report))
    shown: dict[str, int] = {}
    for number, finding in enumerate(issues, 1):
        blocks += _issue(report, finding, number, shown)
    return blocks


def _issue(report: Result, finding: Finding, number: int, shown: dict[str, int]) -> list[str]:
    kind = "warning, " if finding.status is Status.WARN else ""
    code = f", {finding.code}" if finding.code else ""
    blocks = [
        f"### {number}. {prose(fault(finding))}",
        prose(f"{quoted(finding.rule)}{code}: {kind}{finding.severity.value}, {SEVERITIES[finding.severity]}."),
        f"**Location.** {prose(quoted(finding.location) if finding.location else 'Unknown.')}",
        f"**What happens now.** {prose(sentence(observed(finding)))}",
        _events_once(report, finding, number, shown),
        f"**What the specification expects.** {prose(sentence(finding.expected or requirement(finding)))}",
        f"**Impact.** {prose(sentence(finding.meaning))}" if finding.meaning else "",
        f"**Certainty.** {prose(sentence(finding.certainty))}" if finding.certainty else "",
        f"**Fix.**\n\n{fenced(finding.remedy)}" if finding.remedy else "",
    ]
    return blocks


def _events_once(report: Result, finding: Finding, number: int, shown: dict[str, int]) -> str:
    """Return the recorded order of events, or a reference to the issue that shows it already."""
    if not explained_by_events(finding) or not (listing := event_list(report, finding)):
        return ""
    if listing in shown:
        return f"The order of events is shown under issue {shown[listing]}."
    shown[listing] = number
    return f"The recorded order of events:\n\n{listing}"


def event_list(report: Result, finding: Finding | None = None) -> str:
    """Return the events of two recorded steps as a numbered list, updates in bold."""
    recorded = events(report, finding)
    words = [f"**{prose(event_words(e))}**" if is_update(e) else prose(event_words(e)) for e in recorded]
    return "\n".join(f"{i}. {line}" for i, line in enumerate(words, 1))


def _correct(report: Result) -> list[str]:
    blocks = ["## What is correct"]
    passed, noted = report.with_status(Status.PASS), report.with_status(Status.INFO)
    blocks.append("\n".join(map(_evidence, passed)) or "No rule passed.")
    if noted:
        blocks += ["Notes:", "\n".join(map(_evidence, noted))]
    issues = report.with_status(Status.FAIL, Status.WARN)
    if not any(map(explained_by_events, issues)) and (listing := event_list(report)):
        blocks.append(f"The recorded order of events:\n\n{listing}")
    return blocks


def _evidence(finding: Finding) -> str:
    seen = observed(finding)
    return f"- **{prose(requirement(finding))}** ({prose(quoted(finding.rule))}){': ' + prose(seen) if seen else ''}"


def _comparison(report: Result) -> str:
    rows = [(f"{requirement(f)} ({quoted(f.rule)})", f.status.value, observed(f)) for f in report.findings]
    return table(("Requirement", "Status", "Measured"), rows)


def _momentum(report: Result) -> list[str]:
    blocks = ["## Momentum against the specification", prose(update_facts(report))]
    cells = momentum_cells(report)
    if not cells:
        blocks.append("No momentum could be measured.")
    else:
        blocks.append(table(MOMENTUM_COLUMNS, cells))
    if report.nearest:
        lines = "\n".join(f"- {prose(line)}" for line in report.nearest)
        blocks.append(f"Closest published specifications:\n\n{lines}")
    return blocks


def _not_checked(report: Result) -> list[str]:
    lines = [
        f"- {prose(quoted(finding.rule))}: {prose(finding.reason or 'no reason was recorded')}"
        for finding in report.with_status(Status.NOT_CHECKED)
    ]
    lines += [f"- Not determined: {prose(name)}" for name in report.measured.not_identifiable]
    return ["## What was not checked, and why", "\n".join(lines) or all_checked(report)]
