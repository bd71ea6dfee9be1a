"""The measured momentum beside the prescribed one, as the rules on schedules read it."""

from hjepa.audit.judge.context import AuditContext
from hjepa.audit.measure.updates import AFTER_STEP, INSIDE_STEP, Update
from hjepa.audit.specs import Spec

TOLERANCE = 2e-6  # of the momentum itself: float32 rounding of the coefficient and of the update
SHIFTS = 10  # steps by which a schedule is moved to look for an offset


def series(audit: AuditContext) -> list[tuple[int, Update]]:
    """Return (number of the schedule's step, update) for the first update after each optimizer step.

    The number counts optimizer steps, whether or not they moved the student: a warm-up that begins at rate 0 has
    updates between equal networks, which nobody can see and which count all the same. Where steps were skipped,
    published loops count either steps or iterations; what fits is taken.
    """
    found = [
        (update, counts)
        for number, update in enumerate(audit.measured.regular)
        if (counts := _counts(audit, update, number))
        and update.fit is not None
        and update.fit.explains
        and update.fit.error < 0.01
    ]
    ways = range(3 if audit.measured.skipped else 1)
    series = [[(audit.start_step + counts[way], update) for update, counts in found] for way in ways]
    return min(series, key=lambda one: _far_off(audit, one))


def _counts(audit: AuditContext, update: Update, number: int) -> tuple[int, int, int]:
    """Return the update's number by optimizer steps, by iterations, and by updates seen."""
    # An update of order A in step k carries momentum k; those of order B and C, seen one step later, carry k too.
    after = update.position == INSIDE_STEP or (update.position == AFTER_STEP and audit.begins_step() is not True)
    step = audit.recording.missed + (update.step - 1 if after else update.step)
    return step, step + update.skips, number


def _far_off(audit: AuditContext, one: list[tuple[int, Update]]) -> int:
    """Return how many updates do not have the prescribed momentum."""
    wrong = 0
    for step, update in one:
        declared = audit.spec.momentum(max(0, step))
        if declared is not None and update.fit is not None:
            wrong += abs(update.fit.momentum - declared) > max(TOLERANCE, 6 * update.fit.error)
    return wrong


def compared(audit: AuditContext, shift: int = 0) -> list[tuple[float, float, float]]:
    """Return (measured, prescribed, tolerance) where both are known."""
    found = []
    for step, update in series(audit):
        declared = audit.spec.momentum(max(0, step + shift))
        if declared is not None and update.fit is not None:
            found.append((update.fit.momentum, declared, max(TOLERANCE, 6 * update.fit.error)))
    return found


def misses(pairs: list[tuple[float, float, float]]) -> int:
    """Return how many measured values lie beyond their tolerance."""
    return sum(abs(measured - declared) > tolerance for measured, declared, tolerance in pairs)


def fits_spec(audit: AuditContext) -> bool:
    """Whether the measured momentum is the prescribed one, but for a tenth of the updates."""
    pairs = compared(audit)
    return bool(pairs) and misses(pairs) <= len(pairs) // 10


def explained_elsewhere(audit: AuditContext) -> str | None:
    """Return the rule that already explains a wrong momentum, so that it is not reported twice."""
    if audit.measured.per_interval > 1:
        return "double-update"
    values = [u.fit.momentum for u in audit.measured.regular if u.fit is not None]
    if values and sorted(values)[len(values) // 2] < 0.2:
        return "swapped-coefficients or hard-copy"
    if any(v > 1 + 1e-6 or v < -1e-6 for v in values):
        return "momentum-out-of-range"
    return None


def momenta(audit: AuditContext) -> list[float]:
    """Return the measured momenta of the series."""
    return [u.fit.momentum for _, u in series(audit) if u.fit is not None]


def slope_visible(audit: AuditContext) -> bool:
    """Whether the momenta change by more than their errors over the steps watched."""
    pairs = compared(audit)
    return bool(pairs) and abs(pairs[-1][1] - pairs[0][1]) > 3 * pairs[-1][2]


def slope_of(values: list[float]) -> float:
    """Return the slope of the straight line through equally spaced values."""
    n = len(values)
    middle, mean = (n - 1) / 2, sum(values) / n
    return sum((i - middle) * (v - mean) for i, v in enumerate(values)) / sum((i - middle) ** 2 for i in range(n))


def stretch_of(audit: AuditContext) -> float | None:
    """Return by what the schedule is too fast (over 1) or slow, when start and kind are right."""
    pairs = compared(audit)
    if len(pairs) < 4 or fits_spec(audit) or not slope_visible(audit):
        return None
    if audit.spec.kind not in ("linear", "cosine", "linear-then-constant"):
        return None
    measured, declared = [p[0] for p in pairs], [p[1] for p in pairs]
    if abs(measured[0] - declared[0]) > 0.3 * (1 - declared[0]) + pairs[0][2]:
        return None
    if measured[-1] >= 1 - TOLERANCE > declared[-1]:
        return float("inf")
    wanted = slope_of(declared)
    share = slope_of(measured) / wanted if wanted else 0.0
    return share if share > 0 and abs(share - 1) > 0.02 else None


def best_shift(audit: AuditContext) -> int | None:
    """Return the shift (not 0) under which every value fits, when none does without."""
    if not audit.spec.prescribed or fits_spec(audit) or not slope_visible(audit):
        return None
    good = [
        shift
        for shift in range(-SHIFTS, SHIFTS + 1)
        if shift and compared(audit) and not misses(compared(audit, shift))
    ]
    return min(good, key=abs) if good else None


def restarts(audit: AuditContext) -> int | None:
    """Return the update at which a rising momentum falls back towards its first value."""
    values, errors = momenta(audit), [u.fit.error for _, u in series(audit) if u.fit is not None]
    for n in range(2, len(values)):
        rise = values[n - 1] - values[0]
        surely = 10 * TOLERANCE + 12 * max(errors[0], errors[n - 1], errors[n])
        if rise > surely and values[n] < values[n - 1] - 0.5 * rise:
            return n
    return None


def begins_again(audit: AuditContext) -> Spec | None:
    """Return the published setting whose first steps a resumed run repeats, where the momentum is not as specified."""
    if not audit.start_step or not audit.spec.prescribed or fits_spec(audit):
        return None
    found = [u.fit for _, u in series(audit) if u.fit is not None]
    for setting in (audit.spec, *audit.spec.variants):
        first = [(fit, setting.momentum(number)) for number, fit in enumerate(found)]
        same = [m is not None and abs(fit.momentum - m) <= max(TOLERANCE, 6 * fit.error) for fit, m in first]
        wanted = setting.momentum(audit.start_step)
        if same[:1] == [True] and all(same) and wanted is not None and abs(setting.start - wanted) > TOLERANCE:
            return setting
    return None


def other_kind(audit: AuditContext) -> str | None:
    """Return the measured kind when it differs from the prescribed one and the start value is right."""
    if audit.schedule is None or not audit.spec.prescribed or fits_spec(audit):
        return None
    wanted = {"linear-then-constant": "linear", "frozen": "constant"}.get(audit.spec.kind, audit.spec.kind)
    if wanted not in ("constant", "linear", "cosine") or audit.schedule == wanted:
        return None
    if wanted == "linear" and audit.schedule == "constant" and not slope_visible(audit):
        return None
    first = series(audit)
    if not first or first[0][1].fit is None:
        return None
    declared = audit.spec.momentum(audit.start_step)
    near = declared is not None and abs(first[0][1].fit.momentum - declared) < 0.05 * (1 - declared) + TOLERANCE
    return audit.schedule if near or declared is None else None


def stood_still(audit: AuditContext, values: list[float]) -> int:
    """Return for how many steps the teacher has stood still at the end, when the rising momentum had reached 1."""
    if len(values) < 2 or not audit.updates:
        return 0
    still = audit.measured.effective - max(update.version for update in audit.updates)
    rise = values[-1] - values[-2]
    return still if still >= 3 and rise > TOLERANCE and values[-1] + 1.01 * rise >= 1 else 0


def fits_shifted(audit: AuditContext) -> bool:
    """Whether the measured momentum is that of the step before, of the step itself or of the next."""
    return any(not misses(compared(audit, shift)) for shift in (-1, 0, 1))


def power_of_declared(audit: AuditContext) -> int | None:
    """Return n when every measured momentum is the declared one to the n-th power, up to the fourth."""
    if not audit.spec.prescribed:
        return None
    powers = set()
    for number, update in enumerate(audit.measured.regular):
        declared = audit.spec.momentum(audit.start_step + number)
        if declared is None or not 0 < declared < 1 or update.fit is None or not 0 < update.fit.momentum < 1:
            continue
        measured = (1 - update.fit.momentum) / (1 - declared)
        power = round(measured)
        exact = 1 - declared**power
        if not 1 <= power <= 4 or abs(1 - update.fit.momentum - exact) > 0.005 * exact:
            return None
        powers.add(power)
    return powers.pop() if len(powers) == 1 else None
