"""O: where in the loop the teacher is updated, and how often."""

from itertools import pairwise

from hjepa.audit.judge.context import AuditContext
from hjepa.audit.judge.findings import Severity
from hjepa.audit.judge.momentum_series import power_of_declared
from hjepa.audit.judge.rule import Outcome, counted, failed, noted, passed, rule, unchecked, warned
from hjepa.audit.measure.updates import BEFORE_STEP
from hjepa.audit.observe.recording import Kind
from hjepa.audit.specs.spec import ORDER_WORDS, ORDERS

FEW = "fewer than 3 optimizer steps changed the student: watch more steps"


def moved(audit: AuditContext) -> bool:
    """Return whether the teacher changed at all."""
    return bool(audit.updates)


def has_regular_updates(audit: AuditContext) -> bool:
    """Return whether there are updates that say something about order and momentum."""
    return bool(audit.measured.regular)


@rule(
    "never-updated", "O5", Severity.CRITICAL,
    meaning="The teacher keeps its initial weights, so the student learns to predict a fixed network, random or old. "
    "The loss can fall nevertheless.",
    remedy="+ after optimizer.step():  update_teacher(student, teacher, momentum)\n"
    "  (with DDP or torch.compile, go through .module or ._orig_mod: hasattr on the wrapper returns False)",
)  # fmt: skip
def never_updated(audit: AuditContext) -> Outcome:
    """O5: the teacher does not move although the student does.

    Signature: teacher samples constant over at least 3 steps that changed the student.
    """
    if audit.spec.kind == "frozen":
        return noted("the specification prescribes a fixed teacher", updates=len(audit.updates))
    if moved(audit):
        return passed(
            f"the teacher changed {counted(len(audit.updates), 'time')} in {audit.measured.effective} optimizer steps"
        )
    if audit.measured.effective < 3:
        return unchecked(FEW)
    if (replaced := len(audit.events(Kind.REPLACED))) and audit.measured.longest_life < 3:
        return unchecked(f"the teacher was replaced {replaced} times, in nearly every step: see teacher-replaced")
    if all(not fit.moved for fit in audit.measured.tensors) and _equal_throughout(audit):
        return unchecked("teacher and student were equal in every snapshot: see aliased-teacher and hard-copy")
    return failed(
        f"no sampled teacher value changed in {audit.measured.effective} steps that changed the student",
        "one update per optimizer step",
        location=audit.location(Kind.STEP),
        steps=audit.measured.effective,
    )


def _equal_throughout(audit: AuditContext) -> bool:
    snapshots = [event.snapshot for event in audit.recording.events if event.snapshot is not None]
    return bool(snapshots) and all(bool((snapshot.teacher == snapshot.student).all()) for snapshot in snapshots)


@rule(
    "stale-student", "O1", Severity.MINOR,
    meaning="The targets come from a teacher that does not yet include the latest optimizer step. At momentum 0.996 "
    "this raises the teacher's mean age from 249 to 250 steps, so by itself it changes little; it matters when the "
    "momentum is small, when updates run per micro-batch, or when the run must reproduce a reference.",
    remedy="- update_teacher(...)      # before the step\n  optimizer.step()\n+ update_teacher(...)      # after it",
)  # fmt: skip
def stale_student(audit: AuditContext) -> Outcome:
    """O1: at the teacher's forward the newest student is not contained (lag 1).

    Signature: the update falls between the teacher's forward and the optimizer step that follows.
    """
    if not has_regular_updates(audit):
        return unchecked("no teacher update was observed")
    if audit.only_decays:
        return unchecked("no update includes the student: see update-without-student")
    lags = audit.measured.lags
    if not lags:
        return unchecked("no teacher forward in training was observed after an update")
    values = [lag for _, lag in lags]
    every = (audit.measured.per_step or 1.0) < 0.75
    early = [u for u in audit.measured.regular if u.position == BEFORE_STEP]
    old = [u for u in audit.updates if u.stale is not None and u.stale_error is not None]
    mean = sum(values) / len(values)
    steady = values[2:] or values
    if min(steady) >= 1 and not every:
        return failed(
            f"{_lag_in_words(audit, mean)} at {sum(v >= 1 for v in values)} of {len(values)} teacher forwards"
            f"{_first_early(audit)}",
            "an update between the optimizer step and the next teacher forward (order A, B or B')",
            location=audit.update_location(),
            lag=mean, forwards=len(values), updates_before_step=len(early),
        )  # fmt: skip
    if early and len(early) > len(audit.measured.regular) / 2 and not every:
        return failed(
            f"{len(early)} of {len(audit.measured.regular)} updates that included a new student ran between the "
            f"teacher's forward and the optimizer step (mean lag {mean:.2f})",
            "the update after the optimizer step",
            location=audit.update_location(),
            lag=mean,
        )
    if sum(0.5 < (u.stale or 0.0) < 1.5 for u in old) > len(old) / 2 and not every:
        share = sum(u.stale or 0.0 for u in old) / len(old)
        return failed(
            f"the update uses the student from before the optimizer step (fraction of old weights: {share:.2f})",
            "the student from after the optimizer step",
            location=audit.update_location(),
            lag=mean, share_old=share,
        )  # fmt: skip
    saw = f"lag {mean:.2f} at {len(values)} teacher forwards"
    if audit.spec.prescribed and audit.order in ORDERS and audit.order not in audit.spec.orders:
        wanted = " or ".join(ORDER_WORDS[order] for order in sorted(audit.spec.orders))
        said = f"{saw}; the update runs {ORDER_WORDS[audit.order]}, in {audit.spec.name} {wanted}: both are correct"
        return noted(said, lag=mean, forwards=len(values), order=audit.order)
    if every and mean >= 1:
        return noted(f"{saw}, because updates are rare: see sparse-update", lag=mean, forwards=len(values))
    return passed(saw, lag=mean, forwards=len(values))


def _lag_in_words(audit: AuditContext, mean: float) -> str:
    lag = "one step" if round(mean, 2) == 1 else f"{mean:.2f} steps"
    if any(u.position == BEFORE_STEP for u in audit.measured.regular):
        return f"the EMA update runs before optimizer.step(): the teacher lags by {lag} (lag {mean:.2f})"
    return f"the teacher lags by {lag} (lag {mean:.2f})"


def _first_early(audit: AuditContext) -> str:
    """Return words on the first update before its optimizer step, "" if there is none."""
    update = next((u for u in audit.measured.regular if u.position == BEFORE_STEP), None)
    if update is None:
        return ""
    return f"; in step {update.step} the teacher changed between '{update.before.kind}' and '{update.after.kind}'"


@rule(
    "sparse-update", "O2", Severity.MINOR,
    meaning="A momentum intended for every step is applied only every few steps, so the teacher follows the student "
    "more slowly than its momentum suggests.",
    remedy="  update after every optimizer step, or use momentum ** n for an update every n steps",
)  # fmt: skip
def sparse_update(audit: AuditContext) -> Outcome:
    """O2: updates only every n-th step.  Signature: a change of the teacher only every n-th step."""
    per_step = audit.measured.per_step
    if per_step is None:
        if audit.measured.effective >= 8 and len({u.step for u in audit.updates}) == 1:
            return warned(
                f"one update in {audit.measured.effective} steps",
                "an update at every step",
                location=audit.update_location(),
            )
        return unchecked("fewer than 2 updates were observed")
    if per_step < 0.75:
        steps = sorted({u.step for u in audit.updates})
        gaps = [b - a for a, b in pairwise(steps)]
        if audit.measured.skipped and max(gaps) <= 1 + audit.measured.skipped:
            return passed(f"{per_step:.2f} updates per step; updates are missing at skipped steps only")
        return failed(
            f"an update every {1 / per_step:.1f} steps (gaps of {min(gaps)} to {max(gaps)})",
            "an update at every step",
            location=audit.update_location(),
            updates_per_step=per_step,
        )
    return passed(f"{per_step:.2f} updates per step", updates_per_step=per_step)


def _extra(audit: AuditContext) -> list:  # type: ignore[type-arg]
    return [update for update in audit.updates if not update.first]


@rule(
    "update-per-microbatch", "O3", Severity.MAJOR,
    meaning="With n micro-batches the effective momentum per step is the declared one to the power n (0.996 becomes "
    "0.984 with n = 4), so the teacher forgets n times as fast.",
    remedy="- update after every micro-batch\n"
    "+ if this is the last micro-batch and the optimizer stepped:  update_teacher(...)",
)  # fmt: skip
def update_per_microbatch(audit: AuditContext) -> Outcome:
    """O3: several updates per optimizer step under accumulation.

    Signature: updates while the student stands still, one for each backward pass.
    """
    if not moved(audit):
        return unchecked("no teacher update was observed")
    extra = [u for u in _extra(audit) if not u.evaluation and not u.skipped]
    if audit.measured.micro_batches < 2:
        return passed("one backward pass per optimizer step, so there are no micro-batches")
    if len(extra) >= max(2, audit.measured.effective / 2):
        return failed(
            f"{_rate(audit):.1f} updates per optimizer step with {audit.measured.micro_batches:.0f} micro-batches; at "
            f"{len(extra)} of {len(audit.updates)} updates the student had not changed",
            "one update per optimizer step",
            location=audit.update_location(),
            updates_per_step=_rate(audit), micro_batches=audit.measured.micro_batches,
        )  # fmt: skip
    return passed(f"{_rate(audit):.2f} updates per step of {audit.measured.micro_batches:.0f} micro-batches")


def _rate(audit: AuditContext) -> float:
    return audit.measured.per_step or float(len(audit.updates)) / max(1, audit.measured.effective)


@rule(
    "update-on-skipped-step", "O4", Severity.INFO,
    meaning="The teacher is updated and the schedule advances although the student did not change. This is harmless if "
    "it is rare; the published I-JEPA, V-JEPA and DINO code does the same.",
    remedy="  update only if the step was taken:\n+ if not optimizer_step_was_skipped:  update_teacher(...)",
)  # fmt: skip
def update_on_skipped_step(audit: AuditContext) -> Outcome:
    """O4: an update although the optimizer step was skipped.

    Signature: the teacher changes while the student does not, after a backward pass whose gradients were
    thrown away (GradScaler, a loss guard).
    """
    if not audit.measured.skipped:
        return unchecked("no optimizer step was skipped during the audit")
    hits = [u for u in audit.updates if u.skipped and not u.evaluation]
    if not hits:
        return passed(f"no update at {counted(audit.measured.skipped, 'skipped step')}")
    said = f"{counted(len(hits), 'update')} at {counted(audit.measured.skipped, 'skipped step')}"
    if audit.spec.on_skipped_step == "allowed" and audit.spec.prescribed:
        return noted(f"{said}; the published {audit.spec.name} code does the same", updates=len(hits))
    return failed(said, "no update when the step is skipped", location=audit.update_location(), updates=len(hits))


@rule(
    "update-outside-training", "O6", Severity.MINOR,
    meaning="Each validation run moves the teacher towards the student once more, so results depend on how often the "
    "model is validated.",
    remedy="  update during training only:\n+ if student.training and this is a training step:  update_teacher(...)",
)  # fmt: skip
def update_outside_training(audit: AuditContext) -> Outcome:
    """O6: the teacher moves in validation.

    Signature: it changes while the student stands still, around a forward in evaluation mode, or once more
    between two forwards of the teacher alone.
    """
    if not moved(audit):
        return unchecked("no teacher update was observed")
    alone = [u for u in _extra(audit) if u.teacher_alone and not u.evaluation and not u.skipped]
    hits = [u for u in _extra(audit) if u.evaluation]
    if hits:
        return failed(
            f"{counted(len(hits), 'update')} during evaluation, with the student unchanged",
            "no update outside training steps",
            location=audit.update_location(),
            updates=len(hits),
        )
    if alone:
        return unchecked(
            f"{counted(len(alone), 'more update')} between a teacher forward and a student forward: it is not clear "
            "whether that teacher forward was an evaluation (calling teacher.eval() for validation only would show it)"
        )
    seen = audit.measured.evaluations or any(
        event.facts.get("gradients") is False for event in audit.events(Kind.STUDENT_FORWARD)
    )
    return passed(
        "no update during evaluation" if seen else "no update outside training steps (no evaluation was observed)"
    )


@rule(
    "double-update", "O7", Severity.MINOR,
    meaning="Two updates per step square the momentum (0.996 becomes 0.992), so the teacher forgets twice as fast as "
    "declared. The cause is often a second, forgotten update, for example in a callback.",
    remedy="  remove one of the two updates",
)  # fmt: skip
def double_update(audit: AuditContext) -> Outcome:
    """O7: two updates in one optimizer step.

    Signature: two changes of the teacher while the student stands still, or traced writes that complete
    two updates between two snapshots.
    """
    if not moved(audit):
        return unchecked("no teacher update was observed")
    if audit.measured.per_interval > 1:
        places = sorted({w.location for w in audit.recording.trace.writes if w.location})
        return failed(
            f"{audit.measured.per_interval} complete updates per step",
            "one update per step",
            location="; ".join(places[:4]) or None,
            updates_per_step=audit.measured.per_interval,
        )
    extra = [u for u in _extra(audit) if not u.evaluation and not u.skipped]
    if audit.measured.micro_batches < 2 and len(extra) >= max(2, audit.measured.effective / 2):
        return failed(
            f"{_rate(audit):.1f} updates per optimizer step at different places in the code, {len(extra)} of "
            f"{len(audit.updates)} with the student unchanged",
            "one update per step",
            location=audit.update_location(),
            updates_per_step=_rate(audit),
        )
    power = power_of_declared(audit)
    if power is not None and power >= 2:
        return failed(
            f"the measured momentum is the declared one to the power of {power}",
            "one update per step",
            location=audit.update_location(),
            power=power,
        )
    if not audit.measured.writes_counted and power != 1:
        return unchecked(
            "writes to the teacher were not traced (compiled code, p.data = ..., NumPy, or tracing off), so two "
            "updates in a row look like one: declare the momentum (--momentum) to check this"
        )
    return passed("one update per step")


@rule(
    "non-finite-teacher", "O9", Severity.MAJOR,
    meaning="A single NaN in the student is averaged into the teacher and never leaves it.",
    remedy="+ if not torch.isfinite(loss):  skip backward, step and update",
)  # fmt: skip
def non_finite_teacher(audit: AuditContext) -> Outcome:
    """O9: NaN or infinity reached the teacher.  Signature: a non-finite sample in it."""
    for event in audit.recording.events:
        if event.snapshot is not None and not bool(event.snapshot.teacher.isfinite().all()):
            bad = int((~event.snapshot.teacher.isfinite()).sum())
            return failed(
                f"{bad} of {len(event.snapshot.teacher)} sampled teacher values are not finite from step {event.step} "
                "on",
                "finite values",
                location=audit.update_location(),
                step=event.step, numbers=bad,
            )  # fmt: skip
    return passed("all sampled teacher values are finite")
