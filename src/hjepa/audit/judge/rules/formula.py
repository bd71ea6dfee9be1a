"""F: the arithmetic of the update, and which tensor follows which."""

import torch

from hjepa.audit.judge.context import AuditContext
from hjepa.audit.judge.findings import Severity
from hjepa.audit.judge.rule import Outcome, counted, digits, failed, noted, passed, rule, unchecked, warned
from hjepa.audit.measure.tensor_fits import TensorFit
from hjepa.audit.observe.recording import Kind, Snapshot

NO_UPDATE = "no teacher update was observed"
LOW = (torch.bfloat16, torch.float16)


def _bounds(audit: AuditContext) -> tuple[Snapshot, Snapshot] | None:
    snapshots = [event.snapshot for event in audit.recording.events if event.snapshot is not None]
    return (snapshots[0], snapshots[-1]) if snapshots else None


def hard_copies(audit: AuditContext) -> int:
    """Return how many updates left the teacher equal to the student, bit for bit."""
    count = 0
    for update in audit.updates:
        snapshot = update.after.snapshot
        if snapshot is not None and update.fit is not None and update.fit.momentum < 0.5:
            count += update.source is not None and bool(torch.equal(snapshot.teacher, update.source))
    return count


@rule(
    "swapped-coefficients", "F1", Severity.CRITICAL,
    meaning="The teacher is almost equal to the student, so the targets move with the weights being trained and "
    "nothing prevents collapse.",
    remedy="- t.mul_(1 - m).add_(m * s)\n+ t.mul_(m).add_((1 - m) * s)      # m is near 1 and multiplies the teacher",
)  # fmt: skip
def swapped_coefficients(audit: AuditContext) -> Outcome:
    """F1, F2: the measured momentum is 1 minus the declared one.  Signature: about 0.004 for 0.996."""
    fits = [u.fit for u in audit.fitted[1:] or audit.fitted if u.fit is not None]
    if not fits:
        return unchecked(NO_UPDATE)
    middle = sorted(fit.momentum for fit in fits)[len(fits) // 2]
    declared = audit.spec.momentum(audit.start_step) if audit.spec.prescribed else None
    if 1e-6 < middle < 0.2 and (declared is None or declared > 0.5):
        return failed(
            f"the teacher's coefficient is {digits(middle)}",
            f"about {digits(1 - middle)}" if declared is None else f"{digits(declared)}",
            location=audit.update_location(),
            momentum=middle,
        )
    return passed(f"the teacher's coefficient is {digits(middle)}", momentum=middle)


def _decayed(audit: AuditContext) -> list[str]:
    """Return the tensors that were only multiplied with a number below 1."""
    if audit.only_decays:
        return [pair.name for pair in audit.tensors.pairs]
    return [fit.name for fit in audit.measured.tensors if fit.decays and fit.student_moved and _odd(fit)]


@rule(
    "update-without-student", "F10", Severity.CRITICAL,
    meaning="Nothing of the student is averaged in, so the teacher's weights shrink towards zero, and the targets with "
    "them.",
    remedy="- t.mul_(m).add((1 - m) * s)       # add() returns a new tensor, which is lost\n"
    "+ t.mul_(m).add_((1 - m) * s)      # add_() changes the teacher in place",
)  # fmt: skip
def update_without_student(audit: AuditContext) -> Outcome:
    """F10: ``t1 = m t0``.  Signature: the coefficient of the teacher is below 1, that of the student 0."""
    if not audit.updates:
        return unchecked(NO_UPDATE)
    decays = [update.decay for update in audit.updates if update.decay is not None]
    names = _decayed(audit)
    if audit.only_decays:
        middle = sorted(decays)[len(decays) // 2]
        return failed(
            f"in {len(decays)} of {len(audit.updates)} updates the teacher was multiplied by {digits(middle)} and the "
            "student was not added",
            "m times the teacher plus (1 - m) times the student",
            location=audit.update_location(),
            factor=middle, updates=len(decays),
        )  # fmt: skip
    if names:
        return failed(
            f"{len(names)} of {len(audit.measured.tensors)} teacher tensors only decay although the matching student "
            f"tensors change, for example {names[0]}",
            "m times the teacher plus (1 - m) times the student, in every tensor",
            location=audit.update_location(),
            tensors=names[:20],
        )
    return passed("every update includes the student")


@rule(
    "hard-copy", "F3", Severity.CRITICAL,
    meaning="The effective momentum is 0 whatever the log says: the teacher equals the current student, so the run is "
    "self-distillation without an average.",
    remedy="- teacher.load_state_dict(student.state_dict())\n"
    "+ t.mul_(m).add_((1 - m) * s)      # for each pair of parameters",
)  # fmt: skip
def hard_copy(audit: AuditContext) -> Outcome:
    """F3: the teacher equals the student after the update, bit for bit."""
    if not audit.updates:
        snapshots = _bounds(audit)
        if snapshots and audit.measured.effective >= 2 and torch.equal(snapshots[1].teacher, snapshots[1].student):
            return unchecked("teacher and student were equal in every snapshot: see aliased-teacher")
        return unchecked(NO_UPDATE)
    copies = hard_copies(audit)
    if copies >= max(2, len(audit.updates) / 2):
        return failed(
            f"after {copies} of {len(audit.updates)} updates the teacher equals the student bit for bit",
            "a weighted average",
            location=audit.update_location(),
            updates=copies,
        )
    if copies:
        return noted(
            f"{copies} of {len(audit.updates)} updates copied the student (possibly a warm-up)", updates=copies
        )
    return passed("no update copied the student")


@rule(
    "student-modified", "F4", Severity.MAJOR,
    meaning="The student is changed by something other than its optimizer.",
    remedy="- s.mul_(...)      # inside the update\n  write the average to the teacher only",
)  # fmt: skip
def student_modified(audit: AuditContext) -> Outcome:
    """F4: the update changes the student, or the teacher's weights stay in it.

    Signature: the student is another one when it is trained than at the end of its last step. What is put back
    before that was lent; what follows neither the teacher nor one factor is a constraint, such as prototypes that
    are normalised, unless tracing saw the student written to between two writes of one update.
    """
    changes, steps = audit.measured.changes, audit.measured.steps
    places = sorted({place for place in audit.recording.trace.student_writes.values() if place})
    place = places[0] if places else None
    copied = [change.step for change in changes if change.kind == "copied"]
    if copied:
        shown = ", ".join(map(str, copied[:8]))
        return failed(
            f"after step{'s' * (len(copied) > 1)} {shown} the teacher's weights were copied into the student and not "
            "undone: training continued from the average",
            "the student's own weights restored before training continues",
            location=place,
            remedy="+ kept = {name: p.clone() for name, p in student.state_dict().items()}\n"
            "  student.load_state_dict(teacher.state_dict());  validate(student)\n"
            "+ student.load_state_dict(kept)",
            steps=copied,
        )  # fmt: skip
    kinds = [change.kind for change in changes]
    often = max(2, steps / 4)
    if kinds.count("pulled") + kinds.count("scaled") >= often or (audit.recording.trace.interleaved and changes):
        how = "towards the teacher" if kinds.count("pulled") > len(kinds) / 2 else (
            "by a constant factor" if kinds.count("scaled") > len(kinds) / 2 else "during the update"
        )  # fmt: skip
        return failed(
            f"the student was changed {len(changes)} times outside its optimizer's {steps} steps, {how}",
            "only the optimizer changes the student",
            location=place or audit.update_location(),
            changes=len(changes),
        )
    lent = (
        f"; its weights were swapped and restored {counted(audit.measured.lent, 'time')}" if audit.measured.lent else ""
    )
    if len(changes) >= often:
        return noted(
            f"the student is also changed between its optimizer step and its next forward ({len(changes)} times, for "
            f"example by normalising prototypes); updates are compared with the student at that point{lent}",
            changes=len(changes),
        )
    return passed(f"only the optimizer changed the student{lent}")


LOST = "the changes of all tensors are lost to rounding: watch more steps, or steps with a larger learning rate"


def _judged(audit: AuditContext) -> tuple[list[TensorFit], str]:
    """Return the tensors whose partners moved by more than rounding hides, and words on those by less."""
    moved = [fit for fit in audit.measured.tensors if fit.student_moved]
    judged = [fit for fit in moved if fit.visible]
    lost = len(moved) - len(judged)
    return judged, f"; {lost} more cannot be judged because their changes are lost to rounding" if lost else ""


def _odd(fit: TensorFit) -> bool:
    """Return whether the tensor moved, but not towards its partner."""
    return fit.moved and fit.chi > 20 and fit.rest > 0.1


@rule(
    "mispaired-parameters", "F5", Severity.CRITICAL,
    meaning="Teacher tensors average the wrong student tensors, so the teacher is not an average of the student.",
    remedy="- for t, s in zip(teacher.parameters(), student.parameters())\n"
    "+ mine = dict(student.named_parameters())\n+ for name, t in teacher.named_parameters():  s = mine[name]",
)  # fmt: skip
def mispaired_parameters(audit: AuditContext) -> Outcome:
    """F5, F6: tensors follow the wrong partner.

    Signature: their change is not explained by the student's tensor of the same name, while others' is.
    """
    if not audit.updates:
        return unchecked(NO_UPDATE)
    judged, lost = _judged(audit)
    odd = [fit for fit in judged if _odd(fit) and not fit.decays]
    if audit.only_decays:
        return unchecked("the teacher only decays: see update-without-student")
    if not judged:
        return unchecked(LOST if lost else "no student tensor changed")
    if odd and not _other_writer(audit) and not _uneven(audit):
        return failed(
            f"{len(odd)} of {len(judged)} teacher tensors do not follow the student tensor of the same name, for "
            f"example {odd[0].name}",
            "every teacher tensor follows the student tensor of the same name",
            location=audit.update_location(),
            tensors=[fit.name for fit in odd[:20]],
        )
    followers = sum(fit.moved for fit in judged)
    return passed(f"all {followers} teacher tensors that changed follow the student tensor of the same name{lost}")


def _other_writer(audit: AuditContext) -> bool:
    """Return whether something else explains a teacher that does not follow: see the rules for it."""
    return bool(
        audit.measured.by_optimizer
        or any(event.kind is Kind.REPLACED for event in audit.recording.events)
        or hard_copies(audit)
        or (audit.parts and any(p.dtype in LOW for part in audit.parts for p in part.teacher.parameters()))
    )


@rule(
    "partial-update", "T11", Severity.MAJOR,
    meaning="Part of the teacher keeps its initial weights while the rest follows the student, so the targets come "
    "from a mixture of old and new weights.",
    remedy="  average every parameter that the teacher's forward uses, including heads",
)  # fmt: skip
def partial_update(audit: AuditContext) -> Outcome:
    """T11, F11: part of the teacher never moves.  Signature: tensors at rest whose partners move."""
    if not audit.updates:
        return unchecked(NO_UPDATE)
    if audit.only_decays:
        return unchecked("the teacher only decays: see update-without-student")
    judged, lost = _judged(audit)
    still = [fit for fit in judged if not fit.moved and not _lost_in_rounding(audit, fit)]
    alone = audit.tensors.teacher_only
    if still:
        return failed(
            f"{len(still)} of {len(judged)} teacher tensors never changed although the matching student tensors did, "
            f"for example {still[0].name}",
            "every teacher tensor is averaged",
            location=audit.update_location(),
            tensors=[fit.name for fit in still[:20]],
        )
    if alone:
        return warned(
            f"no student tensor matches {counted(len(alone), 'teacher tensor')}, for example {alone[0]}",
            "a matching student tensor for every teacher tensor",
            tensors=alone[:20],
        )
    if lost and not judged:
        return unchecked(LOST)
    return passed(f"all {len(judged)} teacher tensors changed along with the matching student tensors{lost}")


def _lost_in_rounding(audit: AuditContext, fit: TensorFit) -> bool:
    pair = next((pair for pair in audit.tensors.pairs if pair.name == fit.name), None)
    return pair is not None and pair.teacher.dtype in LOW


@rule(
    "tied-weights-updated-twice", "F7", Severity.MINOR,
    meaning="A tensor with two names is averaged twice per update, so its effective momentum is squared.",
    remedy="- for name, t in teacher.state_dict().items()\n"
    "+ for name, t in teacher.named_parameters()      # lists tied weights once",
)  # fmt: skip
def tied_weights_updated_twice(audit: AuditContext) -> Outcome:
    """F7: momentum squared on shared tensors only.  Signature: twice the step of the others."""
    tied = {pair.name for pair in audit.tensors.pairs if pair.tied}
    if not tied:
        return passed("the teacher has no tied weights")
    if not audit.updates:
        return unchecked(NO_UPDATE)
    fits = [fit for fit in audit.measured.tensors if fit.name in tied and fit.moved]
    twice = [fit for fit in fits if fit.ratio > 1.5 and fit.error < 0.2]
    if twice:
        return failed(
            f"{twice[0].name} moves {twice[0].ratio:.2f} times as far per update as the other tensors",
            "one update per tensor",
            location=audit.update_location(),
            tensors=[fit.name for fit in twice], ratio=twice[0].ratio,
        )  # fmt: skip
    return passed(f"{len(fits)} tied tensors move as far per update as the others")


@rule(
    "precision-underflow", "F8", Severity.MAJOR,
    meaning="The teacher's dtype is too coarse for updates of (1 - momentum) times the difference: they are rounded "
    "away, or the coefficients no longer sum to 1, and the teacher silently freezes or drifts.",
    remedy="+ keep the teacher (or a master copy of it) in float32 and the momentum as a Python float\n"
    "+ use momentum and 1 - momentum as the coefficients of teacher and student",
)  # fmt: skip
def precision_underflow(audit: AuditContext) -> Outcome:
    """F8: the update is lost in the teacher's format, or the coefficients do not sum to 1.

    Signature: unchanged coordinates although the student differs; ``s`` of the full fit is not 0.
    """
    dtypes = {pair.teacher.dtype for pair in audit.tensors.pairs}
    low = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes if dtype in LOW)
    rounded = _uneven(audit)
    if rounded and not _other_writer(audit):
        excess = rounded[0]
        return failed(
            f"the coefficients sum to {digits(1 + excess)}, not to 1: the teacher's weights grow or shrink with every "
            "update",
            "momentum + (1 - momentum) = 1",
            location=audit.update_location(),
            excess=excess,
        )
    if not low:
        return passed(f"the teacher is kept in {', '.join(sorted(str(d).removeprefix('torch.') for d in dtypes))}")
    lost, whole = _lost(audit)
    if whole and lost > 0.3 * whole:
        return failed(
            f"{100 * lost / whole:.0f} % of the sampled values in which teacher and student differ did not change "
            f"({', '.join(low)} teacher)",
            "every sampled value changes",
            location=audit.update_location(),
            unchanged=lost / whole,
        )
    return warned(f"the teacher is kept in {', '.join(low)}", "float32", dtypes=low)


def _uneven(audit: AuditContext) -> list[float]:
    """Return by how much the coefficients miss a sum of 1, when they do in most updates; else an empty list."""
    found = [
        u.fit.excess
        for u in audit.updates
        if u.fit is not None and u.fit.explains and abs(u.fit.excess) > max(1e-5, 6 * u.fit.excess_error)
    ]
    return found if len(found) >= max(2, len(audit.updates) / 2) else []


def _lost(audit: AuditContext) -> tuple[int, int]:
    """Return (unmoved, all) coordinates where teacher and student differ, between first and last snapshot."""
    snapshots = _bounds(audit)
    if snapshots is None or len(snapshots[0].teacher) != len(snapshots[1].teacher):
        return 0, 0
    first, last = snapshots
    differs = first.teacher != last.student
    return int((differs & (first.teacher == last.teacher)).sum()), int(differs.sum())
