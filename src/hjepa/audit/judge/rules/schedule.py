"""S: the momentum over the steps."""

from dataclasses import replace
from itertools import pairwise

from hjepa.audit.judge.context import Case, Outcome, digits, failed, noted, passed, rule, unchecked, warned
from hjepa.audit.judge.findings import Severity, Status
from hjepa.audit.measure.walk import Update
from hjepa.audit.specs import Spec

NO_SPEC = "no specification is given: name one (--spec ijepa, or --spec custom --momentum 0.99)"
TOO_FEW = "fewer than 4 updates have a measured momentum"
TOLERANCE = 2e-6  # of the momentum itself: float32 rounding of the coefficient and of the update
RESUMED = 10  # steps before a resume that a schedule cannot have spent at its first value
SHIFTS = 10  # steps by which a schedule is moved to look for an offset


def series(case: Case) -> list[tuple[int, Update]]:
    """Return (number of the schedule's step, update) for the first update after each optimizer step.

    The number counts optimizer steps, whether or not they moved the student: a warm-up that begins at rate 0 has
    updates between equal networks, which nobody can see and which count all the same. Where steps were skipped,
    published loops count either steps or iterations; what fits is taken.
    """
    found = [
        (update, counts)
        for number, update in enumerate(case.measured.regular)
        if (counts := _counts(case, update, number))
        and update.fit is not None
        and update.fit.explains
        and update.fit.error < 0.01
    ]
    ways = range(3 if case.measured.skipped else 1)
    series = [[(case.start_step + counts[way], update) for update, counts in found] for way in ways]
    return min(series, key=lambda one: _far_off(case, one))


def _counts(case: Case, update: Update, number: int) -> tuple[int, int, int]:
    """Return the update's number by optimizer steps, by iterations, and by updates seen."""
    # An update of order A in step k carries momentum k; those of order B and C, seen one step later, carry k too.
    after = update.position == "inside-step" or (update.position == "A" and case.begins_step() is not True)
    step = case.recording.missed + (update.step - 1 if after else update.step)
    return step, step + update.skips, number


def _far_off(case: Case, one: list[tuple[int, Update]]) -> int:
    """Return how many updates do not have the prescribed momentum."""
    wrong = 0
    for step, update in one:
        declared = case.spec.momentum(max(0, step))
        if declared is not None and update.fit is not None:
            wrong += abs(update.fit.momentum - declared) > max(TOLERANCE, 6 * update.fit.error)
    return wrong


def _compare(case: Case, shift: int = 0) -> list[tuple[float, float, float]]:
    """Return (measured, prescribed, tolerance) where both are known."""
    found = []
    for step, update in series(case):
        declared = case.spec.momentum(max(0, step + shift))
        if declared is not None and update.fit is not None:
            found.append((update.fit.momentum, declared, max(TOLERANCE, 6 * update.fit.error)))
    return found


def _misses(pairs: list[tuple[float, float, float]]) -> int:
    return sum(abs(measured - declared) > tolerance for measured, declared, tolerance in pairs)


def _fits(case: Case) -> bool:
    pairs = _compare(case)
    return bool(pairs) and _misses(pairs) <= len(pairs) // 10


def _explained_elsewhere(case: Case) -> str | None:
    """Return the rule that already explains a wrong momentum, so that it is not reported twice."""
    if case.measured.per_interval > 1:
        return "double-update"
    values = [u.fit.momentum for u in case.measured.regular if u.fit is not None]
    if values and sorted(values)[len(values) // 2] < 0.2:
        return "swapped-coefficients or hard-copy"
    if any(v > 1 + 1e-6 or v < -1e-6 for v in values):
        return "momentum-out-of-range"
    return None


@rule(
    "momentum-mismatch", "S6", Severity.MINOR,
    meaning="The teacher's memory is not the one that was meant: its length is 1 / (1 - momentum) steps.",
    remedy="  look where the configured value is read; pass it to the update",
)  # fmt: skip
def momentum_mismatch(case: Case) -> Outcome:
    """S6: the measured momentum differs from the specification.  Signature: the first values already differ."""
    found = series(case)
    if not found:
        return unchecked("no update with a measurable momentum was seen")
    values = [u.fit.momentum for _, u in found if u.fit is not None]
    shown = f"{digits(values[0])} to {digits(values[-1])} over {len(values)} updates"
    if not case.spec.prescribed:
        return noted(f"the measured momentum is {shown}; nothing is prescribed", momentum=values)
    pairs = _compare(case)
    if not pairs:
        first = case.spec.momentum(case.start_step)
        if first is None or abs(values[0] - first) < 0.2 * (1 - first) + TOLERANCE:
            return noted(f"{shown}; give --total-steps to compare it step by step", momentum=values)
        return failed(
            f"the measured momentum is {shown}", f"{digits(first)} at the start", location=case.update_location()
        )
    other = _explained_elsewhere(case) or _schedule_fault(case)
    worst = max(pairs, key=lambda pair: abs(pair[0] - pair[1]))
    if _fits(case):
        good = [
            abs(measured - declared) for measured, declared, tolerance in pairs if abs(measured - declared) <= tolerance
        ]
        odd = f"; {len(pairs) - len(good)} of {len(pairs)} differ" if len(good) < len(pairs) else ""
        return passed(f"{shown}, at most {max(good):.1e} from the specification{odd}", momentum=values)
    if _other_convention(pairs):
        given = pairs[0][1]
        return warned(
            f"{shown}; {given:.6g} is 1 - {1 - given:.6g}: the other convention, in which the number is the student's "
            "share",
            f"--momentum {1 - given:.6g}, the teacher's share",
            momentum=values,
        )
    if other:
        return noted(f"{shown}; explained by {other}", momentum=values)
    if case.measured.lags and min(lag for _, lag in case.measured.lags) >= 1 and _any_shift(case):
        return passed(f"{shown}, as prescribed, one step late")
    return failed(
        f"the measured momentum is {shown}; the largest distance is {abs(worst[0] - worst[1]):.2e}",
        f"{digits(pairs[0][1])} to {digits(pairs[-1][1])}",
        location=case.update_location(),
        momentum=values, declared=[declared for _, declared, _ in pairs],
    )  # fmt: skip


def _other_convention(pairs: list[tuple[float, float, float]]) -> bool:
    """Return whether the user gave the student's share, as mmcv and torch's BatchNorm call it, for the momentum."""
    return all(
        declared < 0.5 < measured and abs(measured - (1 - declared)) <= max(tolerance, 0.02 * declared)
        for measured, declared, tolerance in pairs
    )


def _any_shift(case: Case) -> bool:
    return any(not _misses(_compare(case, shift)) for shift in (-1, 0, 1))


def _schedule_fault(case: Case) -> str | None:
    """Return which schedule rule explains the difference, if one does."""
    checks = (
        ("double-update", lambda: _power(case)),
        ("schedule-restarted", lambda: schedule_restarted(case).status is Status.FAIL),
        ("schedule-per-epoch", lambda: case.schedule == "per-epoch"),
        ("schedule-kind", lambda: _other_kind(case) is not None),
        ("schedule-horizon", lambda: bool(_stood_still(case, _values(case)))),
        ("schedule-offset", lambda: best_shift(case) is not None),
        ("schedule-horizon", lambda: _stretch(case) is not None),
    )
    return next((name for name, holds in checks if holds()), None)


def _values(case: Case) -> list[float]:
    return [u.fit.momentum for _, u in series(case) if u.fit is not None]


def _power(case: Case) -> bool:
    from hjepa.audit.judge.rules.order import _power_of_declared

    power = _power_of_declared(case)
    return power is not None and power >= 2


def _other_kind(case: Case) -> str | None:
    """Return the measured kind when it differs from the prescribed one and the start value is right."""
    if case.schedule is None or not case.spec.prescribed or _fits(case):
        return None
    wanted = {"linear-then-constant": "linear", "frozen": "constant"}.get(case.spec.kind, case.spec.kind)
    if wanted not in ("constant", "linear", "cosine") or case.schedule == wanted:
        return None
    if wanted == "linear" and case.schedule == "constant" and not _slope_visible(case):
        return None
    first = series(case)
    if not first or first[0][1].fit is None:
        return None
    declared = case.spec.momentum(case.start_step)
    near = declared is not None and abs(first[0][1].fit.momentum - declared) < 0.05 * (1 - declared) + TOLERANCE
    return case.schedule if near or declared is None else None


def _slope_visible(case: Case) -> bool:
    pairs = _compare(case)
    return bool(pairs) and abs(pairs[-1][1] - pairs[0][1]) > 3 * pairs[-1][2]


@rule(
    "schedule-kind", "S1", Severity.MINOR,
    meaning="The teacher slows down along another curve than prescribed; at the same start and end values the "
    "half-life differs most in the middle of the run.",
    remedy="  use the prescribed curve: linear m = m0 + (m1 - m0) * step / total_steps, for I-JEPA",
)  # fmt: skip
def schedule_kind(case: Case) -> Outcome:
    """S1: not the prescribed kind.  Signature: the differences of the measured momentum."""
    if not case.spec.prescribed:
        return noted(f"the momentum looks {case.schedule}") if case.schedule else unchecked(NO_SPEC)
    if len(series(case)) < 4:
        return unchecked(TOO_FEW)
    if _explained_elsewhere(case):
        return unchecked(f"explained by {_explained_elsewhere(case)}")
    if _fits(case):
        return passed(f"the measured momentum follows the prescribed curve ({case.spec.kind})")
    if restarts(case) is not None:
        return unchecked("the momentum falls back: see schedule-restarted")
    if case.schedule == "per-epoch":
        return _kind_of_stairs(case)
    other = _other_kind(case)
    if other is not None:
        return failed(f"the momentum is {other}", case.spec.kind, location=case.update_location(), measured=other)
    if case.schedule is None:
        return unchecked("the kind is not identifiable from these steps: watch more, or give --total-steps")
    return passed(f"the momentum looks {case.schedule}")


def _kind_of_stairs(case: Case) -> Outcome:
    """Judge the curve of a momentum that changes per epoch where it changes: at the first step of each epoch."""
    found = [(step, u.fit) for step, u in series(case) if u.fit is not None]
    jumps = [found[0], *(b for a, b in pairwise(found) if abs(b[1].momentum - a[1].momentum) > TOLERANCE)]
    if len(jumps) < 3 or case.spec.momentum(1) is None:
        return unchecked("the momentum changes too seldom to tell its curve: watch more epochs, give --total-steps")

    def fits(spec: Spec) -> bool:
        wanted = [(spec.momentum(step), fit) for step, fit in jumps]
        return all(m is not None and abs(m - fit.momentum) < max(TOLERANCE, 6 * fit.error) for m, fit in wanted)

    if fits(case.spec):
        return passed(f"where it changes, the momentum is that of the prescribed curve ({case.spec.kind})")
    other = next((kind for kind in ("linear", "cosine") if fits(replace(case.spec, kind=kind, variants=()))), None)
    if other is None:
        return unchecked("the momentum changes per epoch, along no curve that is known: see schedule-per-epoch")
    return failed(
        f"where it changes, the momentum is {other}", case.spec.kind, location=case.update_location(), measured=other
    )


@rule(
    "schedule-per-epoch", "S2", Severity.MINOR,
    meaning="The momentum stands still within an epoch and then jumps; in a run of few epochs it takes few values and "
    "may be 1 for the whole last epoch.",
    remedy="- m = schedule(epoch)\n+ m = schedule(step)",
)  # fmt: skip
def schedule_per_epoch(case: Case) -> Outcome:
    """S2: constant within an epoch, then a jump.  Signature: few distinct values, each several times in a row."""
    if len(series(case)) < 4:
        return unchecked(TOO_FEW)
    if case.schedule != "per-epoch":
        return passed("the momentum does not move in jumps")
    if restarts(case) is not None:
        return unchecked("the momentum falls back: see schedule-restarted")
    values = _values(case)
    saw = f"the momentum jumps: {len({round(v, 6) for v in values})} values in {len(values)} updates"
    if case.spec.prescribed:
        return failed(saw, "a new value in every step", location=case.update_location(), momentum=values)
    return warned(saw, "a new value in every step", location=case.update_location(), momentum=values)


def _stood_still(case: Case, values: list[float]) -> int:
    """Return for how many steps the teacher has stood still at the end, when the rising momentum had reached 1."""
    if len(values) < 2 or not case.updates:
        return 0
    still = case.measured.effective - max(update.version for update in case.updates)
    rise = values[-1] - values[-2]
    return still if still >= 3 and rise > TOLERANCE and values[-1] + 1.01 * rise >= 1 else 0


def _slope(values: list[float]) -> float:
    n = len(values)
    middle, mean = (n - 1) / 2, sum(values) / n
    return sum((i - middle) * (v - mean) for i, v in enumerate(values)) / sum((i - middle) ** 2 for i in range(n))


def _stretch(case: Case) -> float | None:
    """Return by what the schedule is too fast (over 1) or slow, when start and kind are right."""
    pairs = _compare(case)
    if len(pairs) < 4 or _fits(case) or not _slope_visible(case):
        return None
    if case.spec.kind not in ("linear", "cosine", "linear-then-constant"):
        return None
    measured, declared = [p[0] for p in pairs], [p[1] for p in pairs]
    if abs(measured[0] - declared[0]) > 0.3 * (1 - declared[0]) + pairs[0][2]:
        return None
    if measured[-1] >= 1 - TOLERANCE > declared[-1]:
        return float("inf")
    wanted = _slope(declared)
    share = _slope(measured) / wanted if wanted else 0.0
    return share if share > 0 and abs(share - 1) > 0.02 else None


@rule(
    "schedule-horizon", "S3", Severity.MAJOR,
    meaning="Too short a horizon freezes the teacher before training ends; too long a one never reaches the end value.",
    remedy="  build the schedule from the number of OPTIMIZER steps: epochs * len(loader) / accumulation",
)  # fmt: skip
def schedule_horizon(case: Case) -> Outcome:
    """S3: the end value is reached too early or never.  Signature: the slope of the measured momentum."""
    values = _values(case)
    still = _stood_still(case, values)
    if still:
        return failed(
            f"the momentum rose to {digits(values[-1])} in {len(values)} updates and reached 1: in the {still} steps "
            "after that the teacher stood still",
            f"the end value after {case.spec.total_steps:,} steps" if case.spec.total_steps else "the end of training",
            location=case.update_location(),
            updates=len(values),
        )
    if case.spec.prescribed and case.spec.momentum(1) is None:
        if len(values) >= 4 and values[-1] > values[0] + TOLERANCE and values[-1] < 1:
            rise = _slope(values)
            end = (case.spec.end - values[0]) / rise if rise > 0 else float("inf")
            return noted(
                f"at this slope the end value is reached after {end:,.0f} updates; give --total-steps to judge"
            )
        return unchecked("the horizon is not said: give --total-steps")
    if not case.spec.prescribed:
        reached = [n for n, v in enumerate(values) if v >= 1 - 1e-7]
        return noted(f"momentum 1 is reached at update {reached[0]}") if reached else unchecked(NO_SPEC)
    if len(values) < 4:
        return unchecked(TOO_FEW)
    if restarts(case) is not None or case.schedule == "per-epoch" or _explained_elsewhere(case):
        return unchecked("the momentum is explained by another rule")
    stretch = _stretch(case)
    if stretch is None or best_shift(case) is not None or _other_kind(case) is not None:
        return passed("the slope is that of the prescribed horizon" if _fits(case) else "no sign of another horizon")
    total = case.spec.total_steps
    saw = (
        "momentum 1 is reached while watching"
        if stretch == float("inf")
        else f"the momentum rises {stretch:.2f} times as fast as prescribed"
        + (f", as for {_horizon(case, total, stretch):,} steps" if total else "")
    )
    # A curve that is sampled from both its ends (np.linspace) is one step shorter than the run.
    one_step = total and stretch != float("inf") and abs(_horizon(case, total, stretch) - total) <= 1
    return failed(
        saw,
        f"a horizon of {total:,} steps" if total else "",
        location=case.update_location(),
        severity=Severity.MINOR if one_step else None,
        stretch=stretch,
    )


def _horizon(case: Case, total: int, stretch: float) -> int:
    """Return the number of steps whose schedule is nearest to the measured momentum.

    At its start a line rises with 1/N and a cosine with 1/N**2, so the true N lies near these two.
    """
    values = [(step, update.fit.momentum) for step, update in series(case) if update.fit is not None]
    ends = sorted((total / stretch, total / stretch**0.5))
    low, high = max(1, int(ends[0] * 0.8)), int(ends[1] * 1.25) + 2
    tried = range(low, high, max(1, (high - low) // 2000))

    def distance(steps: int) -> float:
        spec = replace(case.spec, total_steps=steps)
        return sum(abs(value - (spec.momentum(step) or 0.0)) for step, value in values)

    return min(tried, key=distance)


def best_shift(case: Case) -> int | None:
    """Return the shift (not 0) under which every value fits, when none does without."""
    if not case.spec.prescribed or _fits(case) or not _slope_visible(case):
        return None
    good = [
        shift for shift in range(-SHIFTS, SHIFTS + 1) if shift and _compare(case) and not _misses(_compare(case, shift))
    ]
    return min(good, key=abs) if good else None


@rule(
    "schedule-offset", "S4", Severity.INFO,
    meaning="The schedule is read some steps early or late; harmless by itself, but not the reference step for step.",
    remedy="  read the momentum with the number of the step that was just taken, counted from 0",
)  # fmt: skip
def schedule_offset(case: Case) -> Outcome:
    """S4: shifted by a constant number of steps.  Signature: the best shift against the specification."""
    if not case.spec.prescribed:
        return unchecked(NO_SPEC)
    pairs = _compare(case)
    if len(pairs) < 4 or not _slope_visible(case):
        return unchecked("not identifiable: the momentum hardly changes over the steps watched")
    shift = best_shift(case)
    if shift is None or restarts(case) is not None:
        return passed("no constant shift" if _fits(case) else "the difference is not a shift")
    if shift == 1 and case.begins_step() is None and any(u.position == "A" for u in case.updates):
        return unchecked("one step later than after the step, but it is not known whether the update begins a step")
    if shift == -1 and case.measured.lags and min(lag for _, lag in case.measured.lags) >= 1:
        return passed("one step late, as the stale student implies")
    return failed(
        f"the momentum is that of {abs(shift)} step{'s' * (abs(shift) > 1)} {'later' if shift > 0 else 'earlier'}",
        "momentum(0) at the first update",
        location=case.update_location(),
        shift=shift,
    )


def restarts(case: Case) -> int | None:
    """Return the update at which a rising momentum falls back towards its first value."""
    values, errors = _values(case), [u.fit.error for _, u in series(case) if u.fit is not None]
    for n in range(2, len(values)):
        rise = values[n - 1] - values[0]
        surely = 10 * TOLERANCE + 12 * max(errors[0], errors[n - 1], errors[n])
        if rise > surely and values[n] < values[n - 1] - 0.5 * rise:
            return n
    return None


@rule(
    "schedule-restarted", "S5", Severity.MAJOR,
    meaning="After a resume the momentum starts again at its first value: the teacher forgets what it had averaged.",
    remedy="+ save the step with the checkpoint and compute the momentum from it",
)  # fmt: skip
def schedule_restarted(case: Case) -> Outcome:
    """S5: after resume the schedule starts again.  Signature: the rising momentum falls back."""
    if len(series(case)) < 4:
        return unchecked(TOO_FEW)
    at = restarts(case)
    values = _values(case)
    if at is not None:
        return failed(
            f"at update {at} the momentum falls from {digits(values[at - 1])} to {digits(values[at])}",
            "a momentum that goes on",
            location=case.update_location(),
            update=at,
        )
    if case.start_step and case.spec.prescribed and case.spec.momentum(0) is not None:
        start = case.spec.momentum(0)
        wanted = case.spec.momentum(case.start_step)
        if start is not None and wanted is not None and abs(values[0] - start) < TOLERANCE < abs(start - wanted):
            return failed(
                f"the first momentum is {digits(values[0])}, that of step 0",
                f"{digits(wanted)}, that of step {case.start_step}",
                location=case.update_location(),
            )
    if case.start_step >= RESUMED and _starts_again(case, values):
        return failed(
            f"the momentum at step {case.start_step:,} is {digits(values[0])} and goes on as at the start of a run",
            f"the momentum of step {case.start_step:,}",
            location=case.update_location(),
        )
    return passed("the momentum never falls back")


def _starts_again(case: Case, values: list[float]) -> bool:
    """Return whether the momentum of a resumed run is that of a run's first steps.

    Either the ramp 1 - 1/(k + 1) with a small k, or a line whose way to 1 is as long as the whole run.
    """
    ramp = [1 / (1 - value) - 1 for value in values[:6] if value < 1]
    if len(ramp) > 3 and ramp[0] < 0.1 * case.start_step and all(abs(b - a - 1) < 0.02 for a, b in pairwise(ramp)):
        return True
    total = case.spec.total_steps
    if case.spec.prescribed or total is None or case.schedule != "linear":
        return False
    slope = _slope(values)
    left = (1 - values[0]) / slope if slope > 0 else 0.0
    return abs(left - total) < 0.02 * total < abs(left - (total - case.start_step))


@rule(
    "momentum-out-of-range", "S9", Severity.CRITICAL,
    meaning="A momentum above 1 pushes the teacher away from the student, faster and faster.",
    remedy="+ m = min(m, 1.0)      # and find out why it left the range",
)  # fmt: skip
def momentum_out_of_range(case: Case) -> Outcome:
    """S9: a measured momentum outside [0, 1], beyond its error."""
    fits = [u for u in case.fitted if u.fit is not None]
    if not fits:
        return unchecked("no update with a measurable momentum was seen")
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
            location=case.update_location(),
            momentum=out,
        )
    return passed("all measured momenta lie between 0 and 1")
