"""T: the state of the teacher."""

import torch
from torch import Tensor

from hjepa.audit.judge.context import AuditContext
from hjepa.audit.judge.findings import Severity
from hjepa.audit.judge.rule import Outcome, counted, failed, noted, passed, rule, unchecked
from hjepa.audit.measure.updates import Update
from hjepa.audit.observe.program.tensor_pairs import TensorPair
from hjepa.audit.observe.recording import Event, Kind, Snapshot

FORGETS = 10  # steps after which a teacher cannot equal its student by a warm-up from rate 0
NO_STEP = "no optimizer step of the student was observed"


def _steps(audit: AuditContext) -> list[Event]:
    return [event for event in audit.events(Kind.STEP) if "teacher_tensors" in event.facts]


@rule(
    "initial-mismatch", "T1", Severity.MINOR,
    meaning="The teacher forgets its initial weights only at the rate set by the momentum: at 0.996 they take 1,724 "
    "steps to decay to a thousandth. Until then the targets partly come from an unrelated random network.",
    remedy="+ teacher.load_state_dict(student.state_dict())      # after initialisation, before the first step",
)  # fmt: skip
def initial_mismatch(audit: AuditContext) -> Outcome:
    """T1: teacher and student differ before the first step.  Signature: the first snapshot."""
    if not audit.recording.from_start:
        return unchecked("the audit began after the first optimizer step")
    first = next((event.snapshot for event in audit.recording.events if event.snapshot is not None), None)
    if first is None or audit.recording.events[0].step > 0:
        return unchecked(NO_STEP)
    if audit.start_step:
        return _resumed(audit, first)
    if audit.only_decays:
        return unchecked("the teacher only decays, perhaps even before the first snapshot: see update-without-student")
    differs = [p.name for p in audit.tensors.pairs if not _equal(p, first.teacher[p.sampled], first.student[p.sampled])]
    if not differs:
        return passed(f"all {len(audit.tensors.pairs)} tensors are equal at the start")
    saw = f"{len(differs)} of {len(audit.tensors.pairs)} tensors differ before the first step, for example {differs[0]}"
    if audit.spec.initial == "any" and audit.spec.prescribed:
        return noted(f"{saw}; {audit.spec.name} does not require equal weights", tensors=differs[:20])
    if not audit.spec.prescribed and _ramps(audit):
        return noted(f"{saw}; the momentum ramps up from 0, which removes the difference", tensors=differs[:20])
    return failed(saw, "equal weights", tensors=differs[:20], share=len(differs) / len(audit.tensors.pairs))


def _resumed(audit: AuditContext, first: Snapshot) -> Outcome:
    """After a resume equality is the finding: an average of many students is none of them."""
    equal = all(_equal(p, first.teacher[p.sampled], first.student[p.sampled]) for p in audit.tensors.pairs)
    copies = any(update.fit is not None and update.fit.momentum < 1e-3 for update in audit.measured.regular[:2])
    if not equal or copies or audit.start_step < FORGETS:
        return passed(f"the run continues at step {audit.start_step:,} with a teacher that differs from the student")
    return failed(
        f"all {len(audit.tensors.pairs)} tensors of teacher and student are equal at step {audit.start_step:,}: the "
        "average was not restored, and the teacher is a new copy of the student",
        f"the average over {audit.start_step:,} steps",
        severity=Severity.MAJOR,
        remedy="+ checkpoint['teacher'] = teacher.state_dict()      # when saving\n"
        "+ teacher.load_state_dict(checkpoint['teacher'])     # when resuming, after any deepcopy",
        step=audit.start_step,
    )  # fmt: skip


def _equal(pair: TensorPair, teacher: Tensor, student: Tensor) -> bool:
    """Return whether two samples are equal but for the rounding of an average of equal numbers, or of the format."""
    mine = student.to(pair.teacher.dtype).double() if pair.teacher.is_floating_point() else student
    spacing = torch.finfo(pair.teacher.dtype).eps if pair.teacher.is_floating_point() else 0.0
    return bool(((teacher - mine).abs() <= 4 * spacing * mine.abs()).all())


def _ramps(audit: AuditContext) -> bool:
    values = [u.fit.momentum for u in audit.measured.regular if u.fit is not None]
    return len(values) >= 2 and values[0] < 0.6 and values == sorted(values) and values[-1] > values[0] + 0.1


@rule(
    "aliased-teacher", "T2", Severity.CRITICAL,
    meaning="Teacher and student share memory, so every optimizer step changes both: nothing is averaged, and the "
    "targets move with the weights being trained.",
    remedy="- teacher.load_state_dict(student.state_dict(), assign=True)\n+ teacher = copy.deepcopy(student)",
)  # fmt: skip
def aliased_teacher(audit: AuditContext) -> Outcome:
    """T2: shared storage.  Signature: overlapping bytes of one storage."""
    steps = _steps(audit)
    if not steps:
        return unchecked(NO_STEP)
    if audit.one_network:
        return failed(
            "student and teacher are the same network, which the optimizer trains",
            "a copy of the student that changes only by averaging",
            remedy="- teacher = encoder\n+ teacher = copy.deepcopy(encoder).requires_grad_(False)",
        )
    shared = sorted({name for event in steps for name in event.facts["aliased"]})
    if shared:
        return failed(
            f"{len(shared)} of {len(audit.tensors.pairs)} tensors share memory with the student, for example "
            f"{shared[0]}",
            "separate memory",
            tensors=shared[:20],
        )
    return passed("no tensor shares memory with the student")


@rule(
    "teacher-not-frozen", "T3", Severity.INFO,
    meaning="Only torch.no_grad() keeps gradients out of the teacher; where it is forgotten, the teacher is trained "
    "and its graph costs memory.",
    remedy="+ for p in teacher.parameters():  p.requires_grad_(False)",
)  # fmt: skip
def teacher_not_frozen(audit: AuditContext) -> Outcome:
    """T3: parameters of the teacher with ``requires_grad=True``."""
    steps = _steps(audit)
    if not steps:
        return unchecked(NO_STEP)
    facts = steps[-1].facts
    count, whole = facts["teacher_trainable"], facts["teacher_tensors"]
    if count:
        gradients = max(event.facts["teacher_gradients"] for event in steps)
        saw = f"{count} of {whole} teacher tensors have requires_grad=True" + (
            "" if gradients else "; none has received a gradient"
        )
        if audit.averager and not gradients:
            return noted(f"{saw}; this is the default of {audit.averager}", tensors=count)
        # Without gradients it is good practice only: much correct code relies on no_grad alone.
        return failed(saw, "requires_grad=False", tensors=count, gradients=gradients)
    return passed(f"all {whole} teacher tensors are frozen")


@rule(
    "teacher-in-optimizer", "T4", Severity.INFO,
    meaning="The optimizer may change the teacher, by gradients or weight decay, in addition to the EMA update.",
    remedy="- optimizer = AdamW(model.parameters())\n"
    "+ optimizer = AdamW(p for p in model.parameters() if p.requires_grad)",
)  # fmt: skip
def teacher_in_optimizer(audit: AuditContext) -> Outcome:
    """T4, T5: parameters of the teacher in an optimizer group, or weight decay acting on them."""
    steps = _steps(audit)
    if not steps:
        return unchecked(NO_STEP)
    held = max(event.facts["teacher_held"] for event in steps)
    if not held:
        return passed("the optimizer holds no teacher tensors")
    if audit.measured.by_optimizer:
        return failed(
            f"the optimizer holds {counted(held, 'teacher tensor')} and changed the teacher in "
            f"{counted(audit.measured.by_optimizer, 'step')}",
            "no teacher tensors in the optimizer",
            severity=Severity.MAJOR,
            tensors=held, moved=True,
        )  # fmt: skip
    return failed(
        f"the optimizer holds {counted(held, 'teacher tensor')} but has not changed the teacher",
        "no teacher tensors in the optimizer",
        tensors=held,
    )


@rule(
    "stochastic-teacher", "T6", Severity.MINOR,
    meaning="The targets are random: the same image gets a different target in every forward.",
    remedy="+ teacher.eval()      # and keep it in this mode: model.train() switches it back",
)  # fmt: skip
def stochastic_teacher(audit: AuditContext) -> Outcome:
    """T6: dropout or drop-path active in the target forward."""
    forwards = audit.events(Kind.TEACHER_FORWARD)
    if not forwards:
        return unchecked("no teacher forward was observed")
    active = next((event.facts["random"] for event in forwards if event.facts.get("random")), None)
    if active:
        saw = f"random modules active in the teacher's forward: {len(active)}, for example {active[0]}"
        if audit.spec.stochastic_teacher == "allowed" and audit.spec.prescribed:
            return noted(f"{saw}; {audit.spec.name} allows it")
        return failed(
            saw, "no active dropout or drop path in the teacher", location=forwards[0].location, modules=active[:20]
        )
    return passed(f"no random module was active in {len(forwards)} teacher forwards")


@rule(
    "mode-left-changed", "T7", Severity.MINOR,
    meaning="The student keeps training in evaluation mode, without dropout and with frozen BatchNorm statistics.",
    remedy="- student.eval()      # inside the update\n+ leave the mode unchanged: averaging does not depend on it",
)  # fmt: skip
def mode_left_changed(audit: AuditContext) -> Outcome:
    """T7: the update leaves a module in the wrong mode.

    Signature: training flags of the student differ before and after an update and stay so in the next
    training forward.
    """
    hits = []
    for update in audit.updates:
        before, after = update.before.snapshot, update.after.snapshot
        if before is None or after is None or (update.evaluation and not update.first):
            continue
        if update.after.kind is Kind.STUDENT_FORWARD and update.after.facts.get("gradients") is False:
            continue  # a validation began, whose eval() is no matter of the update
        lost = sum(a and not b for a, b in zip(before.student_modes, after.student_modes, strict=False))
        if not lost and _put_into_evaluation(audit, update):  # it had been left so by the update before
            lost = len(after.student_modes)
        if lost:
            hits.append((update, lost))
    trained_so = [
        event
        for event in audit.events(Kind.BACKWARD)
        if event.snapshot is not None and event.snapshot.student_modes and not any(event.snapshot.student_modes)
    ]
    if hits and trained_so:
        update, lost = hits[0]
        return failed(
            f"after the update in step {update.step}, {counted(lost, 'student module')} stayed in evaluation mode, and "
            f"{counted(len(trained_so), 'backward pass', 'es')} ran in this mode",
            "the student in training mode",
            location=audit.update_location(),
            modules=lost,
        )
    if not audit.updates:
        return unchecked("no update was seen")
    return passed("updates do not change the mode of any module")


def _put_into_evaluation(audit: AuditContext, update: Update) -> bool:
    """Return whether a function that is at work in the update, and not around the step, calls eval() on the student."""
    trains = {frame[:2] for event in audit.events(Kind.STEP) for frame in event.facts.get("stack", ())}
    writers = {frame[:2] for write in audit.recording.trace.writes for frame in write.stack}
    events = audit.recording.events
    begin = next(n for n, event in enumerate(events) if event is update.before)
    end = next(n for n, event in enumerate(events) if event is update.after)
    calls = {event.facts["function"] for event in events[begin:end] if event.kind is Kind.MODE}
    return bool((calls & writers) - trains)


@rule(
    "teacher-replaced", "T8", Severity.MAJOR,
    meaning="The average is lost: the teacher becomes a new object, usually a copy of the current student.",
    remedy="- self.teacher = copy.deepcopy(self.student)      # again, during training\n+ update the existing teacher "
    "in place",
)  # fmt: skip
def teacher_replaced(audit: AuditContext) -> Outcome:
    """T8, T10: another object serves as teacher, or isolated jumps to the student."""
    replaced = audit.events(Kind.REPLACED)
    if replaced:
        return failed(
            f"from step {replaced[0].step} on, a different module serves as the teacher "
            f"({counted(len(replaced), 'replacement')})",
            "one teacher for the whole run",
            location=replaced[0].location,
            steps=[event.step for event in replaced],
        )
    jumps: list[int] = []
    averaged = False  # copies before the first average are a warm-up
    for update in audit.updates:
        snapshot = update.after.snapshot
        copied = snapshot is not None and update.source is not None and torch.equal(snapshot.teacher, update.source)
        if copied and averaged:
            jumps.append(update.step)
        averaged |= not copied
    if jumps and len(jumps) < len(audit.updates) / 2:
        return failed(
            f"at step{'s' * (len(jumps) > 1)} {', '.join(map(str, jumps[:8]))} the student overwrote the teacher",
            "an average that continues",
            location=audit.update_location(),
            steps=jumps,
        )
    return passed("one module served as the teacher throughout")


def _few(names: list[str], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


@rule(
    "trained-module-on-target-branch", "G3", Severity.MAJOR,
    meaning="Trained weights also shape the targets, so the targets change with every optimizer step instead of with "
    "the average, and the loss can fall by changing the shared weights.",
    remedy="- target = online_head(teacher(x))\n+ target = teacher_head(teacher(x))      # averaged like the rest",
)  # fmt: skip
def trained_module_on_target_branch(audit: AuditContext) -> Outcome:
    """G3, T11: a trained module shapes the targets.

    Signature: an operation between the teacher's output (or inside its forward) and a trained parameter,
    by tracing; without tracing, a trained module that is called there.
    """
    traced = audit.recording.trace.online_on_target
    called = audit.events(Kind.ONLINE_ON_TARGET)
    names = sorted({*traced, *(name for event in called for name in event.facts["tensors"])})
    if names:
        places = [*traced.values(), *(event.location for event in called)]
        modules = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
        return failed(
            f"{counted(len(names), 'trained tensor')} of {_few(modules)} "
            f"{'is' if len(names) == 1 else 'are'} used to compute the targets",
            "only the teacher's own tensors are used",
            location=next(filter(None, places), None),
            tensors=names[:20],
        )
    if not audit.events(Kind.TEACHER_FORWARD):
        return unchecked("no teacher forward was observed")
    if audit.recording.trace.first_step < 0:
        return unchecked(
            "no step was traced (compiled code, or tracing is off); no call of a trained module on the teacher's "
            "outputs was observed"
        )
    return passed("no trained tensor was used to compute the targets of a traced step")
