"""S: the momentum over the steps."""

from dataclasses import replace
from itertools import pairwise

from hjepa.audit.judge.context import AuditContext
from hjepa.audit.judge.findings import Severity, Status
from hjepa.audit.judge.momentum_series import (
    TOLERANCE,
    begins_again,
    best_shift,
    compared,
    explained_elsewhere,
    fits_shifted,
    fits_spec,
    momenta,
    other_kind,
    power_of_declared,
    restarts,
    series,
    slope_of,
    slope_visible,
    stood_still,
    stretch_of,
)
from hjepa.audit.judge.rule import Outcome, counted, digits, failed, noted, passed, rule, unchecked, warned
from hjepa.audit.specs import Spec

NO_SPEC = "no specification was given: pass one, such as --spec ijepa or --spec custom --momentum 0.99"
TOO_FEW = "the momentum could be measured in fewer than 4 updates"
RESUMED = 10  # steps before a resume that a schedule cannot have spent at its first value


@rule(
    "momentum-mismatch", "S6", Severity.MINOR,
    meaning="The teacher averages over a different number of steps than intended, about 1 / (1 - momentum).",
    remedy="  check where the configured momentum is read, and pass it to the update",
)  # fmt: skip
def momentum_mismatch(audit: AuditContext) -> Outcome:
    """S6: the measured momentum differs from the specification.  Signature: the first values already differ."""
    found = series(audit)
    if not found:
        return unchecked("no update with a measurable momentum was observed")
    values = [u.fit.momentum for _, u in found if u.fit is not None]
    first, last = digits(values[0]), digits(values[-1])
    shown = f"{first}{f' to {last}' if last != first else ''} over {len(values)} updates"
    if not audit.spec.prescribed:
        return noted(f"the measured momentum is {shown}; none is specified", momentum=values)
    pairs = compared(audit)
    if not pairs:
        start = audit.spec.momentum(audit.start_step)
        if start is None or abs(values[0] - start) < 0.2 * (1 - start) + TOLERANCE:
            return noted(f"{shown}; pass --total-steps to compare it step by step", momentum=values)
        return failed(
            f"the measured momentum is {shown}", f"{digits(start)} at the start", location=audit.update_location()
        )
    other = explained_elsewhere(audit) or _schedule_fault(audit)
    worst = max(pairs, key=lambda pair: abs(pair[0] - pair[1]))
    if fits_spec(audit):
        good = [
            abs(measured - declared) for measured, declared, tolerance in pairs if abs(measured - declared) <= tolerance
        ]
        odd = f"; {len(pairs) - len(good)} of {len(pairs)} differ by more" if len(good) < len(pairs) else ""
        return passed(f"{shown}, at most {max(good):.1e} from the specification{odd}", momentum=values)
    if _other_convention(pairs):
        given = pairs[0][1]
        return warned(
            f"{shown}; the given {given:.6g} is 1 - {1 - given:.6g}, as in the convention in which momentum is the "
            "student's coefficient",
            f"--momentum {1 - given:.6g}, the teacher's coefficient",
            remedy=f"- hjepa audit --momentum {given:.6g}\n+ hjepa audit --momentum {1 - given:.6g}",
            momentum=values,
        )
    if other:
        return noted(f"{shown}; explained by {other}", momentum=values)
    if audit.measured.lags and min(lag for _, lag in audit.measured.lags) >= 1 and fits_shifted(audit):
        return passed(f"{shown}, as specified but one step late")
    return failed(
        f"the measured momentum is {shown}; the largest difference is {abs(worst[0] - worst[1]):.2e}",
        f"{digits(pairs[0][1])} to {digits(pairs[-1][1])}",
        location=audit.update_location(),
        momentum=values, declared=[declared for _, declared, _ in pairs],
    )  # fmt: skip


def _other_convention(pairs: list[tuple[float, float, float]]) -> bool:
    """Return whether the given momentum is the coefficient of the student, as in mmcv and in BatchNorm of torch."""
    return all(
        declared < 0.5 < measured and abs(measured - (1 - declared)) <= max(tolerance, 0.02 * declared)
        for measured, declared, tolerance in pairs
    )


def _schedule_fault(audit: AuditContext) -> str | None:
    """Return which schedule rule explains the difference, if one does."""
    checks = (
        ("double-update", lambda: (power_of_declared(audit) or 0) >= 2),
        ("schedule-restarted", lambda: schedule_restarted(audit).status is Status.FAIL),
        ("schedule-per-epoch", lambda: audit.schedule == "per-epoch"),
        ("schedule-kind", lambda: other_kind(audit) is not None),
        ("schedule-horizon", lambda: bool(stood_still(audit, momenta(audit)))),
        ("schedule-offset", lambda: best_shift(audit) is not None),
        ("schedule-horizon", lambda: stretch_of(audit) is not None),
    )
    return next((name for name, holds in checks if holds()), None)


@rule(
    "schedule-kind", "S1", Severity.MINOR,
    meaning="The momentum follows a different curve from the specified one; with the same start and end values, the "
    "teacher's half-life differs most in the middle of the run.",
    remedy="  use the specified curve; for I-JEPA it is linear: m = m0 + (m1 - m0) * step / total_steps",
)  # fmt: skip
def schedule_kind(audit: AuditContext) -> Outcome:
    """S1: not the prescribed kind.  Signature: the differences of the measured momentum."""
    if not audit.spec.prescribed:
        return noted(f"the momentum schedule appears to be {audit.schedule}") if audit.schedule else unchecked(NO_SPEC)
    if len(series(audit)) < 4:
        return unchecked(TOO_FEW)
    if explained_elsewhere(audit):
        return unchecked(f"the momentum is explained by {explained_elsewhere(audit)}")
    if fits_spec(audit):
        return passed(f"the measured momentum follows the specified curve ({audit.spec.kind})")
    if restarts(audit) is not None or begins_again(audit) is not None:
        return unchecked("the schedule starts again: see schedule-restarted")
    if audit.schedule == "per-epoch":
        return _kind_of_stairs(audit)
    other = other_kind(audit)
    if other is not None:
        return failed(
            f"the momentum schedule is {other}", audit.spec.kind, location=audit.update_location(), measured=other
        )
    if audit.schedule is None:
        return unchecked(
            "the kind of schedule cannot be identified from these steps: watch more, or pass --total-steps"
        )
    return passed(f"the momentum schedule appears to be {audit.schedule}")


def _kind_of_stairs(audit: AuditContext) -> Outcome:
    """Judge the curve of a momentum that changes per epoch where it changes: at the first step of each epoch."""
    found = [(step, u.fit) for step, u in series(audit) if u.fit is not None]
    jumps = [found[0], *(b for a, b in pairwise(found) if abs(b[1].momentum - a[1].momentum) > TOLERANCE)]
    if len(jumps) < 3 or audit.spec.momentum(1) is None:
        return unchecked("the momentum changes too rarely to identify its curve: watch more epochs, pass --total-steps")

    def fits(spec: Spec) -> bool:
        wanted = [(spec.momentum(step), fit) for step, fit in jumps]
        return all(m is not None and abs(m - fit.momentum) < max(TOLERANCE, 6 * fit.error) for m, fit in wanted)

    if fits(audit.spec):
        return passed(f"where the momentum changes, it is on the specified curve ({audit.spec.kind})")
    other = next((kind for kind in ("linear", "cosine") if fits(replace(audit.spec, kind=kind, variants=()))), None)
    if other is None:
        return unchecked("the momentum changes once per epoch and follows no known curve: see schedule-per-epoch")
    return failed(
        f"where the momentum changes, it is {other}", audit.spec.kind, location=audit.update_location(), measured=other
    )


@rule(
    "schedule-per-epoch", "S2", Severity.MINOR,
    meaning="The momentum is constant within an epoch and then jumps; in a run of few epochs it takes only a few "
    "values and may be 1 for the whole last epoch.",
    remedy="- m = schedule(epoch)\n+ m = schedule(step)",
)  # fmt: skip
def schedule_per_epoch(audit: AuditContext) -> Outcome:
    """S2: constant within an epoch, then a jump.  Signature: few distinct values, each several times in a row."""
    if len(series(audit)) < 4:
        return unchecked(TOO_FEW)
    if audit.schedule != "per-epoch":
        return passed("the momentum does not change in jumps")
    if restarts(audit) is not None:
        return unchecked("the momentum drops back: see schedule-restarted")
    values = momenta(audit)
    saw = f"the momentum changes in jumps: {len({round(v, 6) for v in values})} values in {len(values)} updates"
    if audit.spec.prescribed:
        return failed(saw, "a new value at every step", location=audit.update_location(), momentum=values)
    return warned(saw, "a new value at every step", location=audit.update_location(), momentum=values)


@rule(
    "schedule-horizon", "S3", Severity.MAJOR,
    meaning="A schedule that is too short freezes the teacher before training ends; one that is too long never reaches "
    "its final value.",
    remedy="  compute the length of the schedule in optimizer steps: epochs * len(loader) / accumulation",
)  # fmt: skip
def schedule_horizon(audit: AuditContext) -> Outcome:
    """S3: the end value is reached too early or never.  Signature: the slope of the measured momentum."""
    values = momenta(audit)
    still = stood_still(audit, values)
    if still:
        return failed(
            f"the momentum rose to {digits(values[-1])} in {len(values)} updates and then reached 1; the teacher did "
            f"not change in the next {still} steps",
            f"the final value after {audit.spec.total_steps:,} steps"
            if audit.spec.total_steps
            else "the final value at the end of training",
            location=audit.update_location(),
            updates=len(values),
        )
    if audit.spec.prescribed and audit.spec.momentum(1) is None:
        if len(values) >= 4 and values[-1] > values[0] + TOLERANCE and values[-1] < 1:
            rise = slope_of(values)
            end = (audit.spec.end - values[0]) / rise if rise > 0 else float("inf")
            return noted(
                f"at this slope the final value is reached after {end:,.0f} updates; pass --total-steps to check this"
            )
        return unchecked("the length of the schedule is not known: pass --total-steps")
    if not audit.spec.prescribed:
        reached = [n for n, v in enumerate(values) if v >= 1 - 1e-7]
        return noted(f"momentum 1 is reached at update {reached[0]}") if reached else unchecked(NO_SPEC)
    if len(values) < 4:
        return unchecked(TOO_FEW)
    restarted = restarts(audit) is not None or begins_again(audit) is not None
    if restarted or audit.schedule == "per-epoch" or explained_elsewhere(audit):
        return unchecked("another rule explains the momentum")
    stretch = stretch_of(audit)
    if stretch is None or best_shift(audit) is not None or other_kind(audit) is not None:
        return passed(
            "the slope matches the specified length" if fits_spec(audit) else "no sign of a schedule of another length"
        )
    total = audit.spec.total_steps
    saw = (
        "the momentum reaches 1 within the watched steps"
        if stretch == float("inf")
        else f"the momentum rises {stretch:.2f} times as fast as specified"
        + (f", as in a schedule of {_horizon(audit, total, stretch):,} steps" if total else "")
    )
    # A curve that is sampled from both its ends (np.linspace) is one step shorter than the run.
    one_step = total and stretch != float("inf") and abs(_horizon(audit, total, stretch) - total) <= 1
    return failed(
        saw,
        f"a schedule of {total:,} steps" if total else "",
        location=audit.update_location(),
        severity=Severity.MINOR if one_step else None,
        stretch=stretch,
    )


def _horizon(audit: AuditContext, total: int, stretch: float) -> int:
    """Return the number of steps whose schedule is nearest to the measured momentum.

    At its start a line rises with 1/N and a cosine with 1/N**2, so the true N lies near these two.
    """
    values = [(step, update.fit.momentum) for step, update in series(audit) if update.fit is not None]
    ends = sorted((total / stretch, total / stretch**0.5))
    low, high = max(1, int(ends[0] * 0.8)), int(ends[1] * 1.25) + 2
    tried = range(low, high, max(1, (high - low) // 2000))

    def distance(steps: int) -> float:
        spec = replace(audit.spec, total_steps=steps)
        return sum(abs(value - (spec.momentum(step) or 0.0)) for step, value in values)

    return min(tried, key=distance)


@rule(
    "schedule-offset", "S4", Severity.INFO,
    meaning="The schedule is evaluated a few steps early or late. This is harmless by itself, but the run does not "
    "match the reference step by step.",
    remedy="  compute the momentum from the index of the step that was just taken, counting from 0",
)  # fmt: skip
def schedule_offset(audit: AuditContext) -> Outcome:
    """S4: shifted by a constant number of steps.  Signature: the best shift against the specification."""
    if not audit.spec.prescribed:
        return unchecked(NO_SPEC)
    pairs = compared(audit)
    if len(pairs) < 4 or not slope_visible(audit):
        return unchecked("an offset cannot be identified: the momentum hardly changes over the watched steps")
    shift = best_shift(audit)
    if shift is None or restarts(audit) is not None:
        return passed("no constant offset" if fits_spec(audit) else "the difference is not a constant offset")
    if shift == 1 and audit.begins_step() is None and any(u.position == "A" for u in audit.updates):
        return unchecked(
            "the momentum is one step ahead, which is correct if the update begins a step (order B); whether it does "
            "could not be determined"
        )
    if shift == -1 and audit.measured.lags and min(lag for _, lag in audit.measured.lags) >= 1:
        return passed("one step late, as stale-student implies")
    return failed(
        f"the momentum is the one specified for {counted(abs(shift), 'step')} {'later' if shift > 0 else 'earlier'}",
        "momentum(0) at the first update",
        location=audit.update_location(),
        shift=shift,
    )


@rule(
    "schedule-restarted", "S5", Severity.MAJOR,
    meaning="After a resume the momentum restarts at its initial value, and the teacher forgets what it has averaged.",
    remedy="+ save the step in the checkpoint and compute the momentum from it",
)  # fmt: skip
def schedule_restarted(audit: AuditContext) -> Outcome:
    """S5: after resume the schedule starts again.  Signature: the rising momentum falls back."""
    if len(series(audit)) < 4:
        return unchecked(TOO_FEW)
    at = restarts(audit)
    values = momenta(audit)
    if at is not None:
        return failed(
            f"at update {at} the momentum drops from {digits(values[at - 1])} to {digits(values[at])}",
            "a momentum that continues its schedule",
            location=audit.update_location(),
            update=at,
        )
    if audit.start_step and audit.spec.prescribed and audit.spec.momentum(0) is not None:
        start = audit.spec.momentum(0)
        wanted = audit.spec.momentum(audit.start_step)
        if start is not None and wanted is not None and abs(values[0] - start) < TOLERANCE < abs(start - wanted):
            return failed(
                f"the first momentum is {digits(values[0])}, the value for step 0",
                f"{digits(wanted)}, the value for step {audit.start_step}",
                location=audit.update_location(),
            )
    again = begins_again(audit)
    if again is not None:
        return failed(
            f"the momenta are those of steps 0 to {len(values) - 1}, from {digits(values[0])} on",
            f"those from step {audit.start_step:,} on, {digits(again.momentum(audit.start_step) or 0.0)}",
            location=audit.update_location(),
        )
    if audit.start_step >= RESUMED and _starts_again(audit, values):
        return failed(
            f"the momentum at step {audit.start_step:,} is {digits(values[0])} and continues as at the start of a run",
            f"the value for step {audit.start_step:,}",
            location=audit.update_location(),
        )
    return passed("the momentum never drops back")


def _starts_again(audit: AuditContext, values: list[float]) -> bool:
    """Return whether the momentum of a resumed run is that of a run's first steps.

    Either the ramp 1 - 1/(k + 1) with a small k, or a line whose way to 1 is as long as the whole run.
    """
    ramp = [1 / (1 - value) - 1 for value in values[:6] if value < 1]
    if len(ramp) > 3 and ramp[0] < 0.1 * audit.start_step and all(abs(b - a - 1) < 0.02 for a, b in pairwise(ramp)):
        return True
    total = audit.spec.total_steps
    if audit.spec.prescribed or total is None or audit.schedule != "linear":
        return False
    slope = slope_of(values)
    left = (1 - values[0]) / slope if slope > 0 else 0.0
    return abs(left - total) < 0.02 * total < abs(left - (total - audit.start_step))


@rule(
    "momentum-out-of-range", "S9", Severity.CRITICAL,
    meaning="A momentum above 1 drives the teacher away from the student, faster with every update.",
    remedy="+ m = min(m, 1.0)      # and find out why it left this range",
)  # fmt: skip
def momentum_out_of_range(audit: AuditContext) -> Outcome:
    """S9: a measured momentum outside [0, 1], beyond its error."""
    fits = [u for u in audit.fitted if u.fit is not None]
    if not fits:
        return unchecked("no update with a measurable momentum was observed")
    out = []
    for update in fits:
        assert update.fit is not None
        slack = max(1e-5, 6 * update.fit.error)
        if update.fit.momentum > 1 + slack or update.fit.momentum < -slack:
            out.append(update.fit.momentum)
    if out:
        return failed(
            f"{len(out)} of {len(fits)} updates have a momentum of {digits(min(out))} to {digits(max(out))}",
            "0 to 1",
            location=audit.update_location(),
            momentum=out,
        )
    return passed("all measured momenta lie between 0 and 1")
