"""O: where in the loop the teacher is updated, and how often."""

from itertools import pairwise

from hjepa.audit.judge.context import AuditContext
from hjepa.audit.judge.findings import Severity
from hjepa.audit.judge.momentum_series import power_of_declared
from hjepa.audit.judge.rule import Outcome, failed, noted, passed, rule, unchecked, warned
from hjepa.audit.measure.updates import BEFORE_STEP
from hjepa.audit.observe.recording import Kind
from hjepa.audit.specs.spec import ORDER_WORDS, ORDERS

FEW = "fewer than 2 optimizer steps changed the student: watch more steps"


def moved(audit: AuditContext) -> bool:
    """Return whether the teacher changed at all."""
    return bool(audit.updates)


def has_regular_updates(audit: AuditContext) -> bool:
    """Return whether there are updates that say something about order and momentum."""
    return bool(audit.measured.regular)


@rule(
    "never-updated", "O5", Severity.CRITICAL,
    meaning="The teacher stays what it was at the start, so the student learns to predict a fixed random "
    "or old network. The loss can fall all the same.",
    remedy="+ after optimizer.step():  update_teacher(student, teacher, momentum)\n"
    "  (behind DDP or torch.compile, reach through .module or ._orig_mod: hasattr on the wrapper says False)",
)  # fmt: skip
def never_updated(audit: AuditContext) -> Outcome:
    """O5: the teacher does not move although the student does.

    Signature: teacher samples constant over at least 3 steps that changed the student.
    """
    if audit.spec.kind == "frozen":
        return noted("the specification keeps the teacher fixed", updates=len(audit.updates))
    if moved(audit):
        return passed(f"the teacher changed {len(audit.updates)} times in {audit.measured.effective} steps")
    if audit.measured.effective < 3:
        return unchecked(FEW)
    if (replaced := len(audit.events(Kind.REPLACED))) and audit.measured.longest_life < 3:
        return unchecked(f"the teacher was replaced {replaced} times, in nearly every step: see teacher-replaced")
    if all(not fit.moved for fit in audit.measured.tensors) and _equal_throughout(audit):
        return unchecked("teacher and student are equal at every look: see aliased-teacher and hard-copy")
    return failed(
        f"no sampled number of the teacher changed in {audit.measured.effective} steps that changed the student",
        "one update for each optimizer step",
        location=audit.location(Kind.STEP),
        steps=audit.measured.effective,
    )


def _equal_throughout(audit: AuditContext) -> bool:
    snapshots = [event.snapshot for event in audit.recording.events if event.snapshot is not None]
    return bool(snapshots) and all(bool((snapshot.teacher == snapshot.student).all()) for snapshot in snapshots)


@rule(
    "stale-student", "O1", Severity.MINOR,
    meaning="The targets come from a teacher that has not yet taken in the last optimizer step: one step of delay. "
    "At momentum 0.996 the teacher's mean age is 249 steps, with the delay 250, so this alone changes little; "
    "it matters together with updates per micro-batch, a small momentum, or a promise to equal a reference.",
    remedy="- update_teacher(...)      # before the step\n  optimizer.step()\n+ update_teacher(...)      # after it",
)  # fmt: skip
def stale_student(audit: AuditContext) -> Outcome:
    """O1: at the teacher's forward the newest student is not contained (lag 1).

    Signature: the update falls between the teacher's forward and the optimizer step that follows.
    """
    if not has_regular_updates(audit):
        return unchecked("no update was seen")
    if audit.only_decays:
        return unchecked("no update contains the student: see update-without-student")
    lags = audit.measured.lags
    if not lags:
        return unchecked("no forward of the teacher in training was seen after an update")
    values = [lag for _, lag in lags]
    every = (audit.measured.per_step or 1.0) < 0.75
    early = [u for u in audit.measured.regular if u.position == BEFORE_STEP]
    old = [u for u in audit.updates if u.stale is not None and u.stale_error is not None]
    mean = sum(values) / len(values)
    steady = values[2:] or values
    if min(steady) >= 1 and not every:
        said = "".join(f"; {line}" for line in _order_of_events(audit))
        return failed(
            f"at {sum(v >= 1 for v in values)} of {len(values)} teacher forwards the newest student is missing "
            f"(lag {mean:.2f}){said}",
            "an update between the optimizer step and the next teacher forward (order A, B or B')",
            location=audit.update_location(),
            lag=mean, forwards=len(values), updates_before_step=len(early),
        )  # fmt: skip
    if early and len(early) > len(audit.measured.regular) / 2 and not every:
        return failed(
            f"{len(early)} of {len(audit.measured.regular)} updates that took in a new student fell between the "
            f"teacher's forward and the optimizer step (mean lag {mean:.2f})",
            "the update after the optimizer step",
            location=audit.update_location(),
            lag=mean,
        )
    if sum(0.5 < (u.stale or 0.0) < 1.5 for u in old) > len(old) / 2 and not every:
        share = sum(u.stale or 0.0 for u in old) / len(old)
        return failed(
            f"the update uses the student of before the step (share {share:.2f} old)",
            "the student of after the step",
            location=audit.update_location(),
            lag=mean, share_old=share,
        )  # fmt: skip
    saw = f"lag {mean:.2f} at {len(values)} teacher forwards"
    if audit.spec.prescribed and audit.order in ORDERS and audit.order not in audit.spec.orders:
        wanted = " or ".join(ORDER_WORDS[order] for order in sorted(audit.spec.orders))
        said = (
            f"{saw}; the update stands {ORDER_WORDS[audit.order]}, that of {audit.spec.name} {wanted}: both are sound"
        )
        return noted(said, lag=mean, forwards=len(values), order=audit.order)
    return passed(saw, lag=mean, forwards=len(values))


def _order_of_events(audit: AuditContext) -> list[str]:
    update = next((u for u in audit.measured.regular if u.position == BEFORE_STEP), None)
    if update is None:
        return []
    return [f"step {update.step}: the teacher changed between '{update.before.kind}' and '{update.after.kind}'"]


@rule(
    "sparse-update", "O2", Severity.MINOR,
    meaning="Between updates the teacher grows old, and the momentum that was meant for every step acts over many: "
    "the teacher is slower than its momentum says.",
    remedy="  update in every optimizer step, or raise momentum to the power n for an update every n steps",
)  # fmt: skip
def sparse_update(audit: AuditContext) -> Outcome:
    """O2: updates only every n-th step.  Signature: a change of the teacher only every n-th step."""
    per_step = audit.measured.per_step
    if per_step is None:
        if audit.measured.effective >= 8 and len({u.step for u in audit.updates}) == 1:
            return warned(
                f"one update in {audit.measured.effective} steps",
                "an update in every step",
                location=audit.update_location(),
            )
        return unchecked("fewer than 2 updates were seen")
    if per_step < 0.75:
        steps = sorted({u.step for u in audit.updates})
        gaps = [b - a for a, b in pairwise(steps)]
        if audit.measured.skipped and max(gaps) <= 1 + audit.measured.skipped:
            return passed(f"{per_step:.2f} updates a step; the missing ones are skipped steps")
        return failed(
            f"an update every {1 / per_step:.1f} steps (gaps of {min(gaps)} to {max(gaps)})",
            "an update in every step",
            location=audit.update_location(),
            updates_per_step=per_step,
        )
    return passed(f"{per_step:.2f} updates a step", updates_per_step=per_step)


def _extra(audit: AuditContext) -> list:  # type: ignore[type-arg]
    return [update for update in audit.updates if not update.first]


@rule(
    "update-per-microbatch", "O3", Severity.MAJOR,
    meaning="With n micro-batches the momentum that really acts in a step is the n-th power of the declared one "
    "(0.996 with 4: 0.984), so the teacher forgets n times as fast.",
    remedy="- update in every micro-batch\n"
    "+ if this is the last micro-batch and the optimizer stepped:  update_teacher(...)",
)  # fmt: skip
def update_per_microbatch(audit: AuditContext) -> Outcome:
    """O3: several updates per optimizer step under accumulation.

    Signature: updates while the student stands still, one for each backward pass.
    """
    if not moved(audit):
        return unchecked("no update was seen")
    extra = [u for u in _extra(audit) if not u.evaluation and not u.skipped]
    if audit.measured.micro_batches < 2:
        return passed("one backward pass for each optimizer step, so there are no micro-batches")
    if len(extra) >= max(2, audit.measured.effective / 2):
        return failed(
            f"{_rate(audit):.1f} updates for each optimizer step with {audit.measured.micro_batches:.0f} "
            f"micro-batches; {len(extra)} of {len(audit.updates)} updates found the student unchanged",
            "one update for each optimizer step",
            location=audit.update_location(),
            updates_per_step=_rate(audit), micro_batches=audit.measured.micro_batches,
        )  # fmt: skip
    return passed(f"{_rate(audit):.2f} updates for each step of {audit.measured.micro_batches:.0f} micro-batches")


def _rate(audit: AuditContext) -> float:
    return audit.measured.per_step or float(len(audit.updates)) / max(1, audit.measured.effective)


@rule(
    "update-on-skipped-step", "O4", Severity.INFO,
    meaning="The teacher moves and the schedule advances although the student stood still. Harmless when it is rare; "
    "the published I-JEPA, V-JEPA and DINO code does it.",
    remedy="  update only if the step was taken:\n+ if not optimizer_step_was_skipped:  update_teacher(...)",
)  # fmt: skip
def update_on_skipped_step(audit: AuditContext) -> Outcome:
    """O4: an update although the optimizer step was skipped.

    Signature: the teacher changes while the student does not, after a backward pass whose gradients were
    thrown away (GradScaler, a loss guard).
    """
    if not audit.measured.skipped:
        return unchecked("no optimizer step was skipped while watching")
    hits = [u for u in audit.updates if u.skipped and not u.evaluation]
    if not hits:
        return passed(f"no update at {audit.measured.skipped} skipped steps")
    said = f"{len(hits)} updates at {audit.measured.skipped} skipped steps"
    if audit.spec.on_skipped_step == "allowed" and audit.spec.prescribed:
        return noted(f"{said}; {audit.spec.name} as published does this too", updates=len(hits))
    return failed(said, "no update when the step is skipped", location=audit.update_location(), updates=len(hits))


@rule(
    "update-outside-training", "O6", Severity.MINOR,
    meaning="Each validation pulls the teacher towards the student once more, so results depend on how often one "
    "looks.",
    remedy="  guard the update:\n+ if student.training and this is a training step:  update_teacher(...)",
)  # fmt: skip
def update_outside_training(audit: AuditContext) -> Outcome:
    """O6: the teacher moves in validation.

    Signature: it changes while the student stands still, around a forward in evaluation mode, or once more
    between two forwards of the teacher alone.
    """
    if not moved(audit):
        return unchecked("no update was seen")
    alone = [u for u in _extra(audit) if u.teacher_alone and not u.evaluation and not u.skipped]
    hits = [u for u in _extra(audit) if u.evaluation]
    if hits:
        return failed(
            f"{len(hits)} updates during evaluation, with the student unchanged",
            "no update outside training steps",
            location=audit.update_location(),
            updates=len(hits),
        )
    if alone:
        return unchecked(
            f"{len(alone)} further updates between the teacher's forward and the student's: whether that forward "
            "evaluated the teacher cannot be told (teacher.eval() around validation alone would tell)"
        )
    seen = audit.measured.evaluations or any(
        event.facts.get("gradients") is False for event in audit.events(Kind.STUDENT_FORWARD)
    )
    return passed(
        "no update during evaluation" if seen else "no update outside training steps (no evaluation was seen)"
    )


@rule(
    "double-update", "O7", Severity.MINOR,
    meaning="Two updates in one step square the momentum (0.996 becomes 0.992): the teacher forgets twice as fast as "
    "declared. Often a second, forgotten mechanism.",
    remedy="  keep one of the two updates",
)  # fmt: skip
def double_update(audit: AuditContext) -> Outcome:
    """O7: two updates in one optimizer step.

    Signature: two changes of the teacher while the student stands still, or traced writes that complete
    two updates between two snapshots.
    """
    if not moved(audit):
        return unchecked("no update was seen")
    if audit.measured.per_interval > 1:
        places = sorted({w.location for w in audit.recording.trace.writes if w.location})
        return failed(
            f"{audit.measured.per_interval} complete updates in one step",
            "one update in each step",
            location="; ".join(places[:4]) or None,
            updates_per_step=audit.measured.per_interval,
        )
    extra = [u for u in _extra(audit) if not u.evaluation and not u.skipped]
    if audit.measured.micro_batches < 2 and len(extra) >= max(2, audit.measured.effective / 2):
        return failed(
            f"{_rate(audit):.1f} updates for each optimizer step at different places, {len(extra)} of "
            f"{len(audit.updates)} with the student unchanged",
            "one update in each step",
            location=audit.update_location(),
            updates_per_step=_rate(audit),
        )
    power = power_of_declared(audit)
    if power is not None and power >= 2:
        return failed(
            f"the measured momentum is the declared one to the power of {power}",
            "one update in each step",
            location=audit.update_location(),
            power=power,
        )
    if not audit.measured.writes_counted and power != 1:
        return unchecked(
            "the writes to the teacher were not traced (compiled code, p.data = ..., arrays, or tracing off), so two "
            "updates at one place look like one: declare the momentum (--momentum)"
        )
    return passed("one update in each step")


@rule(
    "non-finite-teacher", "O9", Severity.MAJOR,
    meaning="One NaN in the student is averaged into the teacher and never leaves it.",
    remedy="+ if not torch.isfinite(loss):  skip backward, step and update",
)  # fmt: skip
def non_finite_teacher(audit: AuditContext) -> Outcome:
    """O9: NaN or infinity reached the teacher.  Signature: a non-finite sample in it."""
    for event in audit.recording.events:
        if event.snapshot is not None and not bool(event.snapshot.teacher.isfinite().all()):
            bad = int((~event.snapshot.teacher.isfinite()).sum())
            return failed(
                f"{bad} of {len(event.snapshot.teacher)} sampled numbers are not finite from step {event.step} on",
                "finite numbers",
                location=audit.update_location(),
                step=event.step, numbers=bad,
            )  # fmt: skip
    return passed("all sampled numbers of the teacher are finite")
