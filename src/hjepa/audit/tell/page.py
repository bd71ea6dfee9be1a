"""The report as one self-contained HTML page: no network, no script, light and dark, for phones and desktops."""

from html import escape

from hjepa.audit.judge.findings import Finding, Result, Status, Verdict
from hjepa.audit.tell.figures import events_figure, momentum_figure
from hjepa.audit.tell.page_style import STYLE
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
    momentum_rows,
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

_TONES = {
    Verdict.CONFORMS: "good",
    Verdict.DEVIATES: "careful",
    Verdict.FAILS: "bad",
    Verdict.INCONCLUSIVE: "none",
}
_FEW_EVENTS = 12  # more are listed below their figure instead of beside it
_SIGNS = {Status.PASS: "✓", Status.FAIL: "✕", Status.WARN: "!", Status.INFO: "i", Status.NOT_CHECKED: "–"}


def page_of(report: Result) -> str:
    """Return the whole report as an HTML page."""
    script = report.subject.script
    title = f"Audit of {one_line(script) or 'a training loop'}: {report.verdict.value}"
    body = [
        _status(report, script),
        _section("Executive summary", _summary(report)),
        _what_to_add(report),
        _issues(report),
        _correct(report),
        _section("Comparison with the specification", _comparison(report)),
        _section("Momentum against the specification", _momentum(report)),
        _section("Recommendations", f"<ol>{_items(recommendations(report))}</ol>"),
        _section("What was not checked, and why", _not_checked(report)),
    ]
    mild = "" if report.verdict is Verdict.FAILS else " class=mild"  # failures in amber, not in red
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<main{mild}>\n{chr(10).join(filter(None, body))}\n</main>\n"
        "</body>\n</html>\n"
    )


def inline(text: str) -> str:
    """Return marked text as escaped HTML."""
    return "".join(f"<code>{escape(words)}</code>" if code else escape(words) for code, words in marked_parts(text))


def hint(text: str) -> str:
    """Return a remedy as a block in which added and removed lines are coloured."""
    lines = []
    for line in clean(text).strip("\n").split("\n"):
        kind = {"+": "ins", "-": "del"}.get(line[:1])
        lines.append(f"<{kind}>{escape(line)}</{kind}>" if kind else escape(line))
    return f'<pre tabindex="0">{chr(10).join(lines)}</pre>'


def pill(status: Status) -> str:
    """Return a status as a word with a sign, so that it does not rely on colour."""
    words = status.value.replace("-", " ")
    return f'<span class="pill {status.value}"><span aria-hidden="true">{_SIGNS[status]}</span> {words}</span>'


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>"


def _items(lines: list[str]) -> str:
    return "".join(f"<li>{inline(line)}</li>" for line in lines)


def _status(report: Result, script: str) -> str:
    source = f" ({inline(report.spec_source)})" if report.spec_source else ""
    return (
        f"<header>\n<p class=eyebrow>Audit of a teacher-student training loop</p>\n"
        f"<h1>{escape(one_line(script)) or 'Training loop'}</h1>\n"
        f'<div class="verdict {_TONES[report.verdict]}"><h2>Status: {report.verdict.value}</h2>'
        f"<p>{inline(VERDICTS[report.verdict])}</p>"
        f"<p class=soft>{inline(report.date)} · specification <code>{escape(one_line(report.spec))}</code>{source} · "
        f"{count(report.steps, 'optimizer step')} watched · exit code {report.exit_code}</p></div>\n</header>"
    )


def _summary(report: Result) -> str:
    sentences = "".join(f"<p class=lead>{inline(sentence)}</p>" for sentence in executive_summary(report))
    counts = "".join(f"<li>{pill(status)} <b>{number}</b></li>" for status, number in tallies(report))
    facts = "".join(f"<dt>{name}</dt><dd>{inline(text)}</dd>" for name, text in subject_lines(report))
    return (
        f'{sentences}\n<ul class="tallies" aria-label="Rules by status">{counts}</ul>\n'
        f"{'<h3>What was watched</h3><dl>' + facts + '</dl>' if facts else ''}"
    )


def _what_to_add(report: Result) -> str:
    choices = how_to_choose(report)
    if report.verdict is not Verdict.INCONCLUSIVE and not choices:
        return ""
    content = f"<p>{inline(sentence(report.reason))}</p>"
    if choices:
        rows = "".join(
            f"<li><code>{escape(one_line(name))}</code>: <code>{escape(options)}</code></li>"
            for name, options in choices
        )
        command = f"hjepa audit {choices[0][1]} {one_line(report.subject.script) or 'train.py'}"
        content += (
            "<p>Several pairs are possible. Choose one with its options, placed before the script:</p>"
            f"<ul>{rows}</ul>{hint(command)}"
        )
    return _section("What to add", content)


def _issues(report: Result) -> str:
    issues = report.with_status(Status.FAIL, Status.WARN)
    shown: dict[str, int] = {}
    blocks = [_issue(report, finding, number, shown) for number, finding in enumerate(issues, 1)]
    return _section(issues_heading(report), "\n".join(blocks) or f"<p>{no_issue(report)}</p>")


def _issue(report: Result, finding: Finding, number: int, shown: dict[str, int]) -> str:
    loud = "warned" if finding.status is Status.WARN else "grave" if finding.severity.is_grave else "slight"
    code = f", {escape(one_line(finding.code))}" if finding.code else ""
    location = f"<code>{escape(one_line(finding.location))}</code>" if finding.location else "Unknown."
    cycle = _events_once(report, finding, number, shown)
    fields = [
        ("Location", f"<p>{location}</p>"),
        ("What happens now", f"<p>{inline(sentence(observed(finding)))}</p>{cycle}"),
        ("What the specification expects", f"<p>{inline(sentence(finding.expected or requirement(finding)))}</p>"),
        ("Impact", f"<p>{inline(sentence(finding.meaning))}</p>" if finding.meaning else ""),
        ("Certainty", f"<p>{inline(sentence(finding.certainty))}</p>" if finding.certainty else ""),
        ("Fix", hint(finding.remedy) if finding.remedy else ""),
    ]
    told = [f"<h4>{name}</h4><div>{content}</div>" for name, content in fields if content]
    return (
        f'<article class="issue {loud}"><h3>{number}. {inline(fault(finding))}</h3>'
        f"<p class=soft>{pill(finding.status)} {finding.severity.value}, {SEVERITIES[finding.severity]} · "
        f"<code>{escape(one_line(finding.rule))}</code>{code}</p>"
        f'<div class="fields">{"".join(told)}</div></article>'
    )


def _events_once(report: Result, finding: Finding, number: int, shown: dict[str, int]) -> str:
    if not explained_by_events(finding) or not (listing := _event_list(report, finding)):
        return ""
    if listing in shown:
        return f"<p>The order of events is shown under issue {shown[listing]}.</p>"
    shown[listing] = number
    return _event_block(report, f"events-{number}", finding)


def _event_list(report: Result, finding: Finding | None = None) -> str:
    recorded = events(report, finding)
    lines = [f"<li{' class=update' if is_update(e) else ''}>{inline(event_words(e))}</li>" for e in recorded]
    return f"<ol>{''.join(lines)}</ol>" if lines else ""


def _event_block(report: Result, name: str, finding: Finding | None = None) -> str:
    """Return the figure with the numbered list beside it."""
    recorded = events(report, finding)
    figure = events_figure(recorded, name)
    layout = "recorded long" if len(recorded) > _FEW_EVENTS else "recorded"
    return (
        f'<div class="{layout}"><figure><div class="scroll" tabindex="0">{figure}</div>'
        "<figcaption>The recorded order of events, from left to right, numbered as in the list. "
        "Teacher updates are filled.</figcaption></figure>"
        f"{_event_list(report, finding)}</div>"
    )


def _correct(report: Result) -> str:
    passed, noted = report.with_status(Status.PASS), report.with_status(Status.INFO)
    content = f"<ul class=evidence>{''.join(map(_evidence, passed))}</ul>" if passed else ""
    content = content or "<p>No rule passed.</p>"
    if noted:
        content += f"<p>Notes:</p><ul class=evidence>{''.join(map(_evidence, noted))}</ul>"
    issues = report.with_status(Status.FAIL, Status.WARN)
    if report.timeline and not any(map(explained_by_events, issues)):
        content += _event_block(report, "events")
    return _section("What is correct", content)


def _evidence(finding: Finding) -> str:
    seen = observed(finding)
    rule = f"<code>{escape(one_line(finding.rule))}</code>"
    return f"<li><b>{inline(requirement(finding))}</b> ({rule}){': ' + inline(seen) if seen else ''}</li>"


def _comparison(report: Result) -> str:
    rows = "".join(
        f"<tr><th scope=row>{inline(requirement(f))} <code>{escape(one_line(f.rule))}</code></th>"
        f"<td>{pill(f.status)}</td><td>{inline(observed(f)) or '–'}</td></tr>"
        for f in report.findings
    )
    return (
        '<div class="scroll" tabindex="0"><table class="rules"><caption>All rules of the audit</caption>'
        "<thead><tr><th scope=col>Requirement</th><th scope=col>Status</th><th scope=col>Measured</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _momentum(report: Result) -> str:
    rows = momentum_rows(report)
    content = f"<p>{inline(update_facts(report))}</p>"
    if rows:
        content += f"<figure>{momentum_figure(rows)}{_momentum_caption(report, len(rows))}</figure>"
        content += _momentum_table(report)
    else:
        content += "<p>No momentum could be measured.</p>"
    if report.nearest:
        lines = _items(list(report.nearest))
        content += f"<h3>Closest published specifications</h3><ul>{lines}</ul>"
    return content


def _momentum_caption(report: Result, drawn: int) -> str:
    words = "One dot per update; momentum is the teacher's coefficient and has no unit."
    if dropped := len(report.measured.momentum) - drawn:
        words += f" Not drawn because not finite: {dropped}."
    return f"<figcaption>{words}</figcaption>"


def _momentum_table(report: Result) -> str:
    rows = momentum_rows(report)
    lines = [
        f"<tr><th scope=row>{step}</th>{''.join(f'<td>{number}</td>' for number in numbers)}</tr>"
        for step, *numbers in momentum_cells(report)
    ]
    caption = f"All {len(rows)} updates" if len(rows) > 1 else "The only update"
    if len(lines) < len(rows):
        caption = f"The first and last {len(lines) // 2} of {len(rows)} updates"
    return (
        f'<div class="scroll" tabindex="0"><table class="numbers"><caption>{caption}</caption>'
        f"<thead><tr>{''.join(f'<th scope=col>{head}</th>' for head in MOMENTUM_COLUMNS)}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _not_checked(report: Result) -> str:
    lines = [
        f"{quoted(finding.rule)}: {finding.reason or 'no reason was recorded'}"
        for finding in report.with_status(Status.NOT_CHECKED)
    ]
    lines += [f"Not determined: {name}" for name in report.measured.not_identifiable]
    return f"<ul>{_items(lines)}</ul>" if lines else f"<p>{all_checked(report)}</p>"
