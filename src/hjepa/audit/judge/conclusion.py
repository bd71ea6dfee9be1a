"""From what was measured to what is reported: the order, the schedule, the findings and the events in words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hjepa.audit.judge.context import AuditContext
from hjepa.audit.judge.findings import Finding, Measured, TimelineEntry
from hjepa.audit.judge.momentum_series import series
from hjepa.audit.judge.rules import judge
from hjepa.audit.measure.nearest import closest, nearest
from hjepa.audit.measure.schedule_kind import kind_of
from hjepa.audit.measure.updates import BEFORE_STEP, INSIDE_STEP, Update
from hjepa.audit.observe.recording import Kind
from hjepa.audit.specs.spec import Spec

SHOWN_STEPS = 4  # steps whose events the report lists


@dataclass(frozen=True)
class Conclusion:
    """What follows from one audited subject; ``spec`` is that published setting of the method which is nearest."""

    spec: Spec
    nearest: Sequence[str]
    measured: Measured
    findings: Sequence[Finding]
    timeline: Sequence[TimelineEntry]


def conclude(audit: AuditContext) -> Conclusion:
    """Judge what was seen by the nearest setting of what is prescribed, and put it into words."""
    order = _order(audit)
    momenta, errors, steps = found = _series(audit)
    kind = kind_of(momenta, errors, steps)
    matches = nearest(momenta, steps, order=order, total_steps=audit.spec.total_steps)
    spec = closest(audit.spec, momenta, steps, kind) if momenta else audit.spec
    told = None if order == "A" and _ambiguous(audit) else order
    audit = replace(audit, spec=spec, schedule=kind, order=told)
    return Conclusion(
        spec, [match.says for match in matches[:3]], _measured(audit, order, found), judge(audit), _timeline(audit)
    )


def _order(audit: AuditContext) -> str | None:
    """Return the order that most updates show; A and B differ only in the text and in what follows the last step."""
    measured = audit.measured
    updates = measured.regular[1:] or measured.regular
    if not updates:
        return None
    positions = [_position(update) for update in updates]
    inside = sum(update.position == INSIDE_STEP for update in updates) > len(updates) / 2
    common = max(sorted(set(positions)), key=positions.count)
    if positions.count(common) < 0.6 * len(positions):
        return "mixed"
    if common == "A" and not inside and audit.begins_step():
        return "B"
    every = (measured.per_step or 1.0) > 0.75
    if common == "A" and every and not inside and _ended(audit) and measured.updates[-1].version < measured.effective:
        return "B"  # training ended and the last step was not followed by an update
    return common


def _was_cut(audit: AuditContext) -> bool:
    """Return whether training went on after the steps that were watched."""
    return any(event.facts.get("cut") for event in audit.events(Kind.END))


def _ended(audit: AuditContext) -> bool:
    """Return whether training ended inside the steps to be watched."""
    return audit.recording.finished and not _was_cut(audit)


def _position(update: Update) -> str:
    if update.position == INSIDE_STEP:
        old = update.stale is not None and update.stale > 0.5
        return BEFORE_STEP if old else "A"
    return update.position


def _series(audit: AuditContext) -> tuple[list[float], list[float], list[int]]:
    found = [(u.fit.momentum, u.fit.error, step) for step, u in series(audit) if u.fit is not None]
    return [f[0] for f in found], [f[1] for f in found], [f[2] for f in found]


def _measured(audit: AuditContext, order: str | None, series: tuple[list[float], list[float], list[int]]) -> Measured:
    values, errors, steps = series
    lags = [float(lag) for _, lag in audit.measured.lags]
    stale_errors = [u.stale_error for u in audit.updates if u.stale_error is not None]
    unknown = list(audit.recording.problems)
    if audit.schedule is None and values:
        unknown.append("the kind of schedule")
    if order == "A" and _ambiguous(audit):
        unknown.append(
            "whether the update runs after the optimizer step (order A) or begins the next step (order B); both are "
            "correct"
        )
    if audit.measured.per_interval > 1:
        rate: float | None = (audit.measured.per_step or 1.0) * audit.measured.per_interval
    else:
        rate = audit.measured.per_step
    return Measured(
        order=order,
        lag=sum(lags) / len(lags) if lags else None,
        lag_error=min(stale_errors) if stale_errors else None,
        updates_per_step=rate,
        momentum=values,
        momentum_error=errors,
        momentum_step=steps,
        expected=[audit.spec.momentum(step) for step in steps],
        schedule=audit.schedule,
        not_identifiable=unknown,
    )


def _ambiguous(audit: AuditContext) -> bool:
    """Return whether nothing told A from B: the window closed before training ended, and nothing fell inside a step."""
    inside = any(u.position == INSIDE_STEP for u in audit.updates)
    return not inside and audit.begins_step() is None and _was_cut(audit)


def _timeline(audit: AuditContext) -> list[TimelineEntry]:
    """Return the events of the first steps in words, with the updates where they fell."""
    skip = (Kind.TEACHER_END, Kind.STUDENT_END, Kind.BACKWARD_END, Kind.STEP_END, Kind.END, Kind.MODE)
    updates = {id(update.before): update for update in audit.updates}
    place = audit.update_location()
    entries = []
    for event in audit.recording.events:
        if event.step >= SHOWN_STEPS:
            break
        if event.kind not in skip:
            entries.append(TimelineEntry(event.step, event.kind.value, event.location))
        update = updates.get(id(event))
        if update is not None:
            entries.append(TimelineEntry(event.step, _update_in_words(update), place))
    return entries


def _update_in_words(update: Update) -> str:
    momentum = f" with momentum {update.fit.momentum:.6f}" if update.fit is not None else ""
    extra = "" if update.first else ", student unchanged since the previous update"
    return f"teacher update{momentum}{extra}"
