"""F9: buffers of the teacher: counters, and the statistics of normalisation."""

import torch
from torch import Tensor

from hjepa.audit.judge.context import AuditContext
from hjepa.audit.judge.findings import Severity
from hjepa.audit.judge.rule import Outcome, counted, failed, noted, passed, rule, unchecked
from hjepa.audit.measure.updates import Update
from hjepa.audit.observe.recording import Event, Kind

TREATED = {"own": "does not touch", "copy": "copies", "ema": "averages"}


@rule(
    "buffers-mishandled", "F9", Severity.MAJOR,
    meaning="Teacher statistics that are never updated, or counters that are averaged, make the teacher's output wrong "
    "as soon as it is evaluated with them.",
    remedy="+ for name, b in teacher.named_buffers():  copy integers from the student; average or copy statistics",
)  # fmt: skip
def buffers_mishandled(audit: AuditContext) -> Outcome:
    """F9: integer buffers averaged, normalisation statistics left behind.

    Signature: integers that equal neither their own past nor the student; running statistics of a teacher
    in evaluation mode that never move while the student's do.
    """
    buffers = audit.tensors.buffers
    if not buffers:
        return passed("the teacher has no buffers")
    snapshots = [event.snapshot for event in audit.recording.events if event.snapshot is not None]
    if len(snapshots) < 2:
        return unchecked("fewer than two snapshots were taken")
    first, last = snapshots[0], snapshots[-1]
    for name, (teacher, student, place) in audit.recording.trace.counters.items():
        saw = f"an update wrote {teacher:g} into the integer buffer {name} while the student's value was {student:g}"
        return _counter_averaged(audit, name, saw, place)
    for pair in buffers:
        part = pair.sampled
        before, after, mine = first.teacher_buffers[part], last.teacher_buffers[part], last.student_buffers[part]
        moves = not torch.equal(first.student_buffers[part], mine)
        if not pair.teacher.is_floating_point():
            averaged = _averaged_count(audit, part)
            if averaged is not None:
                old, new, student = averaged
                saw = (
                    f"the integer buffer {pair.name} went from {old:g} to {new:g} in an update while the student's "
                    f"value was {student:g}"
                )
                return _counter_averaged(audit, pair.name, saw, audit.update_location())
        elif moves and torch.equal(before, after) and "running" in pair.name and _in_evaluation(audit):
            return failed(
                f"the teacher's {pair.name} never changed although the student's did, and the teacher runs in "
                "evaluation mode, which uses it",
                "statistics that follow the student's",
                location=audit.update_location(),
                buffer=pair.name,
            )
    said = f"{counted(len(buffers), 'buffer')} checked"
    others = [words for words in (_other_treatment(audit), _other_mode(audit)) if words]
    return noted("; ".join([said, *others])) if others else passed(said)


def _counter_averaged(audit: AuditContext, name: str, saw: str, place: str | None) -> Outcome:
    """Judge a counter that an update averages; BatchNorm reads its count only where it has no momentum of its own."""
    norms = [module for part in audit.parts for module in part.teacher.modules() if hasattr(module, "running_mean")]
    unread = name.endswith("num_batches_tracked") and all(module.momentum is not None for module in norms)
    why = ": counters cannot be averaged" + ("; BatchNorm with a momentum does not read this one" if unread else "")
    if unread and audit.averager:
        return noted(f"{saw}{why}; {audit.averager} averages integers, too", buffer=name)
    return failed(
        f"{saw}{why}",
        "a copy of the student's value, or the teacher's own count",
        location=place,
        severity=Severity.MINOR if unread else None,
        buffer=name,
    )


def _other_treatment(audit: AuditContext) -> str:
    """Return words on statistics that the update treats in another way than prescribed, if it does."""
    parts = [pair.sampled for pair in audit.tensors.buffers if pair.teacher.is_floating_point()]
    touched, copied, seen = 0, 0, 0
    for update in audit.measured.regular:
        before, after = update.before.snapshot, update.after.snapshot
        if before is None or after is None or not parts:
            continue
        old, new, mine = (
            torch.cat([values[part] for part in parts])
            for values in (before.teacher_buffers, after.teacher_buffers, after.student_buffers)
        )
        if not torch.equal(old, mine):  # else nothing could be averaged or copied
            own = torch.equal(old, new) or _moved_by_itself(update, old, new, mine)
            seen, touched = seen + 1, touched + (not own)
            copied += torch.equal(new, mine)
    if not seen or not audit.spec.prescribed or audit.spec.buffers == "any":
        return ""
    does = "own" if not touched else "copy" if copied == touched else "ema"
    wanted = "own" if audit.spec.buffers == "none" else audit.spec.buffers
    if does == wanted:
        return ""
    return f"the update {TREATED[does]} floating-point buffers, whereas {audit.spec.name} {TREATED[wanted]} them"


def _moved_by_itself(update: Update, old: Tensor, new: Tensor, mine: Tensor) -> bool:
    """Return whether the teacher's own forward, in training mode, explains statistics that no average does."""
    if update.before.kind is not Kind.TEACHER_FORWARD or torch.equal(new, mine) or update.fit is None:
        return False
    m = update.fit.momentum
    return not torch.allclose(new, m * old + (1 - m) * mine, rtol=1e-4, atol=1e-7)


def _other_mode(audit: AuditContext) -> str:
    """Return words on normalisation that runs in another mode in the teacher than prescribed, if it does."""
    modules = [module for part in audit.parts for module in part.teacher.modules()]
    places = [n for n, module in enumerate(modules) if getattr(module, "running_mean", None) is not None]
    snapshots = [e.snapshot for e in audit.events(Kind.TEACHER_FORWARD) if e.snapshot is not None]
    modes = {
        snapshot.teacher_modes[n]
        for snapshot in snapshots
        for n in places
        if len(snapshot.teacher_modes) == len(modules)
    }
    if audit.spec.batchnorm == "any" or not audit.spec.prescribed or len(modes) != 1:
        return ""
    mode = "train" if modes.pop() else "eval"
    if mode == audit.spec.batchnorm:
        return ""
    return f"the teacher's BatchNorm runs in {mode} mode, in {audit.spec.name} in {audit.spec.batchnorm} mode"


def _averaged_count(audit: AuditContext, part: slice) -> tuple[float, float, float] | None:
    """Return (before, after, the student's) of an integer buffer that an update changed into neither, else None.

    Where the teacher's own forward ran in training mode meanwhile, it counts by itself.
    """
    before: Event | None = None
    ran = False
    for event in audit.recording.events:
        ran |= event.kind is Kind.TEACHER_FORWARD and before is not None and event.snapshot is None
        if event.snapshot is None:
            continue
        if before is not None and before.snapshot is not None:
            a, b = before.snapshot, event.snapshot
            ran |= before.kind is Kind.TEACHER_FORWARD
            old, new = a.teacher_buffers[part], b.teacher_buffers[part]
            mine = (a.student_buffers[part], b.student_buffers[part])
            counts = ran and any(a.teacher_modes) and bool((new >= old).all()) and bool((new - old <= 8).all())
            if not torch.equal(old, new) and not any(torch.equal(new, one) for one in mine) and not counts:
                return float(old[0]), float(new[0]), float(mine[1][0])
        before, ran = event, False
    return None


def _in_evaluation(audit: AuditContext) -> bool:
    snapshots = [e.snapshot for e in audit.events(Kind.TEACHER_FORWARD) if e.snapshot is not None]
    return bool(snapshots) and not any(any(snapshot.teacher_modes) for snapshot in snapshots)
