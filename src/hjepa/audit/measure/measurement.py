"""From samples of the weights to what happened: updates, their order, the momentum really applied, the lag."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hjepa.audit.measure.regression import _chi, _least_squares, _noise, _share, fit
from hjepa.audit.measure.walk import INSIDE_STEP, Change, Update, Walk, _same
from hjepa.audit.observe.program.tensor_pairs import TensorPair
from hjepa.audit.observe.recording import Event, Kind, Recording, Snapshot, Write


@dataclass
class TensorFit:
    """One tensor over all updates: ``ratio`` of its own step to that of all (1: the same), error, residual."""

    name: str
    ratio: float
    error: float
    chi: float
    moved: bool
    student_moved: bool
    rest: float = 0.0
    visible: bool = True  # whether its steps were larger than what rounding leaves unknown of them
    decays: bool = False  # it was multiplied with a number below 1, and nothing was added


@dataclass(frozen=True)
class StudentChange:
    """The student was another one when it was trained than at the end of its last step.

    ``kind``: "copied" (it became the teacher), "pulled" (it moved towards the teacher), "scaled" (all of it by one
    factor), or "constraint" (anything else, such as prototypes that are normalised).
    """

    step: int  # optimizer steps finished before
    kind: str


@dataclass
class Measurement:
    """Everything that the rules need to know about values."""

    updates: list[Update]
    tensors: list[TensorFit]
    steps: int  # optimizer steps seen
    effective: int  # of these, those that changed the student
    skipped: int  # optimizer steps that were skipped
    by_optimizer: int  # steps in which the optimizer moved the teacher
    changes: list[StudentChange]  # of the student outside its optimizers' steps, that stayed until it was trained
    lent: int  # times that weights were exchanged for something else than training, and put back
    lags: list[tuple[int, int]]  # (optimizer step, lag) at each teacher forward in training
    per_step: float | None
    per_interval: int = 1  # updates between two looks, where tracing counted them
    writes_counted: bool = True  # whether tracing saw the writes of an update
    longest_life: int = 0  # most students that one teacher lived to see before another took its place
    micro_batches: float = 1.0
    evaluations: int = 0  # forwards of the teacher in modes in which it makes no target
    notes: list[str] = field(default_factory=list)

    @property
    def regular(self) -> list[Update]:
        """Updates that took in a new student, in order."""
        return [update for update in self.updates if update.first]

    @property
    def fitted(self) -> list[Update]:
        """Updates with a momentum."""
        return [update for update in self.updates if update.fit is not None]


def measure(recording: Recording, pairs: Sequence[TensorPair]) -> Measurement:
    """Return what the events and samples show."""
    walk = Walk(recording)
    walk.run()
    rounding = _rounding(pairs)
    segments = _segments(pairs)
    for update in walk.updates:
        _explain(update, walk.previous.get(update.version), rounding, segments, walk.current.get(update.step))
    by_optimizer = [u for u in walk.updates if _is_the_optimizers(u)]
    walk.updates = [u for u in walk.updates if not any(u is other for other in by_optimizer)]
    quiet = _without_rounding(walk)
    _find_first(walk.updates)
    _find_evaluations(walk)
    result = Measurement(
        walk.updates,
        _tensors(walk.updates, walk, pairs, rounding),
        steps=recording.steps,
        effective=walk.version,
        skipped=walk.skips,
        by_optimizer=walk.by_optimizer + len(by_optimizer),
        changes=[StudentChange(change.step, _kind_of_change(change, segments)) for change in walk.changes],
        lent=walk.lent,
        lags=walk.lags(),
        per_step=_per_step(walk, quiet),
        micro_batches=walk.micro_batches,
        evaluations=len(walk.evaluations),
        longest_life=walk.longest_life(),
    )
    counted = _traced_updates(recording, walk, pairs)
    result.per_interval, result.writes_counted = counted or 1, counted is not None
    return result


def _find_evaluations(walk: Walk) -> None:
    """Mark updates between two forwards of the teacher alone, now and then: the first of the two made no target."""
    between = [
        update
        for update in walk.updates
        if update.teacher_alone and not update.first and update.after.kind is Kind.TEACHER_FORWARD
    ]
    if len({update.step for update in between}) < max(2, walk.version / 2):  # else: several in each step
        for update in between:
            update.evaluation = True


def _is_the_optimizers(update: Update) -> bool:
    """Return whether an optimizer that holds the teacher moved it, not towards the student."""
    if update.position != INSIDE_STEP or not update.held_by_optimizer:
        return False
    fit = update.fit
    return fit is None or not fit.explains or 1 - fit.momentum < 10 * fit.error or abs(fit.excess) > 1e-5


def _without_rounding(walk: Walk) -> set[int]:
    """Drop updates of which nothing but rounding is seen, between networks that are equal; return their steps.

    Such an update ran, and says nothing: the student has not moved since the last one, or never has.
    """
    quiet: set[int] = set()
    versions: set[int] = {0}
    kept: list[Update] = []
    for update in walk.updates:
        if _is_rounding(update, told=update.version in versions):
            quiet.add(update.step)
        else:
            kept.append(update)
            versions.add(update.version)
    walk.updates = kept
    return quiet


def _is_rounding(update: Update, *, told: bool) -> bool:
    a, b = update.before.snapshot, update.after.snapshot
    if a is None or b is None or len(a.teacher) != len(b.teacher):
        return False
    moved = (b.teacher - a.teacher).abs()
    spacing = 2.4e-7 * torch.maximum(a.teacher.abs(), b.teacher.abs())  # two units of float32
    if not bool((moved <= spacing).all()):
        return False
    return told or (update.fit is not None and 1 - update.fit.momentum < 1e-6)


def _find_first(updates: Sequence[Update]) -> None:
    """Say which updates are the first since the last optimizer step, whether or not that step moved the student."""
    seen: set[int] = set()
    for update in updates:
        update.first = update.step not in seen
        seen.add(update.step)


def _kind_of_change(change: Change, segments: Tensor) -> str:
    moved = change.before != change.after
    if _copied_tensors(change, moved, segments):
        return "copied"
    before, after, teacher = (values[moved] for values in (change.before, change.after, change.teacher))
    apart = change.before != change.teacher
    whole = int((moved & apart).sum()) > 0.5 * int(apart.sum())  # clipped weights may meet the teacher's by chance
    spacing = 4.8e-7 * torch.maximum(before.abs(), after.abs()) + 1e-30
    for kind, line in (("pulled", teacher - before), ("scaled", before)):
        share = float((line * (after - before)).sum() / (line * line).sum().clamp(min=1e-300))
        left = (after - before - share * line).norm()
        fits = bool(left < 1e-3 * (after - before).norm()) or bool(
            ((after - before - share * line).abs() <= spacing).all()
        )
        if fits and (share > 0 or kind == "scaled") and whole:
            return kind
    return "constraint"


def _copied_tensors(change: Change, moved: Tensor, segments: Tensor) -> int:
    """Return how many tensors of the student became the teacher's as a whole."""
    count = 0
    for number in torch.unique(segments[moved]):
        mine = segments == number
        apart = mine & (change.before != change.teacher)
        whole = int(apart.sum()) >= 4 and int((moved & apart).sum()) >= 0.9 * int(apart.sum())
        count += whole and torch.equal(change.after[mine], change.teacher[mine])
    return count


def _per_step(walk: Walk, quiet: set[int]) -> float | None:
    """Return updates for each optimizer step that had something to average, between the first and last update."""
    steps = [update.step for update in walk.updates if update.step > 0]
    if len(set(steps)) < 2:
        return None
    first, last = min(steps), max(steps)
    idle = {step for step in range(first, last) if step not in walk.effective and step not in steps} | quiet
    whole = sum(step not in idle or step in steps for step in range(first, last))
    return sum(first <= step < last for step in steps) / max(1, whole)


# ---------------------------------------------------------------------- regressions


def _rounding(pairs: Sequence[TensorPair]) -> Tensor:
    """Return the relative spacing of each sampled coordinate's number format, float64 ``[n]``."""
    spacing = [
        torch.full((pair.stop - pair.start,), torch.finfo(pair.teacher.dtype).eps, dtype=torch.float64)
        for pair in pairs
        if pair.teacher.is_floating_point()
    ]
    return torch.cat(spacing) if spacing else torch.zeros(0, dtype=torch.float64)


def _segments(pairs: Sequence[TensorPair]) -> Tensor:
    """Return which tensor each sampled coordinate belongs to, int64 ``[n]``."""
    return torch.cat([torch.full((p.stop - p.start,), n) for n, p in enumerate(pairs)] or [torch.zeros(0).long()])


def _explain(
    update: Update, previous: Tensor | None, rounding: Tensor, segments: Tensor, own: Tensor | None = None
) -> None:
    """Fit the update with the student at the end of its last step, ``own``.

    Where it used the student before that step, with that; and where the student was changed between step and
    update (prototypes that are normalised), with what it had become.
    """
    a, b = update.before.snapshot, update.after.snapshot
    assert a is not None and b is not None
    inside = update.position == INSIDE_STEP
    sources = [b.student] if own is None or inside or len(own) != len(b.student) else [own]
    if not inside:
        sources += [other for other in (b.student, a.student) if not any(_same(other, one) for one in sources)]
    _explain_by(update, sources[0], previous, rounding, segments)
    best = (update.source, update.fit, update.decay, update.stale, update.stale_error)
    for source in sources[1:]:
        if update.fit is not None and update.fit.explains:
            return
        update.source, update.fit, update.decay, update.stale, update.stale_error = (None,) * 5
        _explain_by(update, source, previous, rounding, segments)
    if update.fit is None or not update.fit.explains:
        update.source, update.fit, update.decay, update.stale, update.stale_error = best


def _explain_by(update: Update, current: Tensor, previous: Tensor | None, rounding: Tensor, segments: Tensor) -> None:
    a, b = update.before.snapshot, update.after.snapshot
    assert a is not None and b is not None
    t0, t1 = a.teacher, b.teacher
    if len(t0) != len(rounding) or not bool((torch.isfinite(t0) & torch.isfinite(t1) & torch.isfinite(current)).all()):
        return
    noise = _noise(t0, t1, rounding, current)
    update.source = current
    if previous is not None:
        _staleness(update, t0, t1, current, previous, noise)
        if update.stale is not None and update.stale > 0.5:
            update.source = previous
    usable = (update.source != t0) | (t1 != t0)
    usable &= _typical(t0, t1, update.source, noise, segments, usable)
    if int(usable.sum()) >= 2:
        update.fit = fit(t0[usable], t1[usable], update.source[usable], noise[usable])
        if update.fit is not None and update.fit.only_decays:
            # No average, so no momentum either: rules on the momentum have nothing to judge.
            update.decay, update.fit, update.stale = 1 + update.fit.excess, None, None


def _staleness(update: Update, t0: Tensor, t1: Tensor, current: Tensor, previous: Tensor, noise: Tensor) -> None:
    """Measure how much of the student before the last step is in what was averaged."""
    usable = current != previous
    if int(usable.sum()) < 3 or _same(t0, previous):
        return
    x = torch.stack([t0, current - t0, current - previous], dim=1)[usable]
    solved = _least_squares(x, (t1 - t0)[usable], noise[usable])
    if solved is None or float(solved[0][1]) <= 0:
        return
    values, errors, chi, _ = solved
    share = float(values[1])
    stale = -float(values[2]) / share
    error = max(1.0, chi) * math.hypot(float(errors[2]), stale * float(errors[1])) / share
    if error < 0.1:  # 5 standard errors between new and old; otherwise these steps do not tell
        update.stale, update.stale_error = stale, error


def _typical(t0: Tensor, t1: Tensor, current: Tensor, noise: Tensor, segments: Tensor, usable: Tensor) -> Tensor:
    """Return the coordinates of tensors that follow the majority, so that a few odd ones do not shift the fit.

    Tensors at rest say nothing about the momentum of those that move, however many they are.
    """
    count = int(segments.max()) + 1 if len(segments) else 0
    weight = torch.where(usable, noise, torch.inf) ** -2
    x, d = torch.nan_to_num(current - t0), torch.nan_to_num(t1 - t0)
    top = torch.zeros(count, dtype=torch.float64).index_add_(0, segments, weight * x * d)
    bottom = torch.zeros(count, dtype=torch.float64).index_add_(0, segments, weight * x * x)
    share = top / bottom.clamp(min=1e-300)
    moved = (bottom > 0) & (top != 0)
    if int(moved.sum()) < 3:
        return moved[segments] if bool(moved.any()) else torch.ones_like(usable)
    error = bottom.clamp(min=1e-300).rsqrt()
    told = moved & (share.abs() > 5 * error)  # tensors of which only rounding is seen have no vote
    middle = share[told if bool(told.any()) else moved].median()
    good = moved & ((share - middle).abs() <= torch.maximum(10 * error, 0.05 * middle.abs()))
    return (good if int(good.sum()) >= 0.3 * int(moved.sum()) else moved)[segments]


# ---------------------------------------------------------------------- tensor by tensor


def _tensors(updates: Sequence[Update], walk: Walk, pairs: Sequence[TensorPair], rounding: Tensor) -> list[TensorFit]:
    used = [u for u in updates if u.fit is not None and u.source is not None and u.fit.momentum < 1]
    snapshots = [event for event in walk.snapshots if id(event) not in walk.exchanged]
    if not snapshots:
        return []
    first, last = snapshots[0].snapshot, snapshots[-1].snapshot
    assert first is not None and last is not None
    size = len(rounding)
    top, bottom, square, plain = (torch.zeros(size, dtype=torch.float64) for _ in range(4))
    moved = torch.zeros(size, dtype=torch.bool)
    largest = torch.zeros(size, dtype=torch.float64)  # step in units of rounding
    shrunk, own, whole = (torch.zeros(size, dtype=torch.float64) for _ in range(3))  # sums of d t0, t0 t0, d d
    for update in updates:
        a, b = update.before.snapshot, update.after.snapshot
        assert a is not None and b is not None
        if len(a.teacher) == size:
            moved |= a.teacher != b.teacher
            old, step = torch.nan_to_num(a.teacher), torch.nan_to_num(b.teacher - a.teacher)
            shrunk, own, whole = shrunk + step * old, own + old * old, whole + step * step
    for update in used:
        a, b = update.before.snapshot, update.after.snapshot
        assert a is not None and b is not None and update.fit is not None
        assert update.source is not None
        away, d = update.source - a.teacher, b.teacher - a.teacher
        x = (1 - update.fit.momentum) * away
        # What rounding leaves unknown of the momentum all tensors feel, those near 0 far above their own rounding.
        unsure = update.fit.error / max(1.0, update.fit.chi) * away
        weight = (_noise(a.teacher, b.teacher, rounding, b.student) ** 2 + unsure**2).reciprocal()
        ok = torch.isfinite(x) & torch.isfinite(d) & torch.isfinite(weight)
        x, d = torch.where(ok, x, 0.0), torch.where(ok, d, 0.0)
        largest = torch.maximum(largest, weight.sqrt() * x.abs())
        top += weight * x * d
        bottom += weight * x * x
        square += weight * d * d
        plain += ok
    found = []
    for pair in pairs:
        part = pair.sampled
        t, b2, s2 = float(top[part].sum()), float(bottom[part].sum()), float(square[part].sum())
        n = max(1.0, float(plain[part].sum()))
        ratio = t / b2 if b2 > 0 else math.nan
        left = max(0.0, s2 - 2 * ratio * t + ratio * ratio * b2) if b2 > 0 else 0.0
        student_moved = len(first.student) == size and not _same(first.student[part], last.student[part])
        error = b2**-0.5 if b2 > 0 else math.inf
        rest = math.sqrt(left / s2) if s2 > 0 else 0.0
        fitted = TensorFit(pair.name, ratio, error, math.sqrt(left / n), bool(moved[part].any()), student_moved, rest)
        fitted.visible = not used or float(largest[part].max()) > 4
        fitted.decays = _decays(float(shrunk[part].sum()), float(own[part].sum()), float(whole[part].sum()))
        found.append(fitted)
    return found


def _decays(shrunk: float, own: float, whole: float) -> bool:
    """Return whether all steps of a tensor are the same negative multiple of itself, but for a thousandth."""
    if shrunk >= 0 or not own or not whole:
        return False
    return whole - shrunk * shrunk / own < 1e-6 * whole


def _traced_updates(recording: Recording, walk: Walk, pairs: Sequence[TensorPair]) -> int | None:
    """Return how many complete updates fell between two looks, counted from traced writes; None if unknown.

    After a complete update, and only then, the tensor has moved along the line to the student.
    """
    counts = []
    for update in walk.updates:
        if update.fit is None or not update.fit.explains:
            continue
        begin, end = _number(walk.events, update.before), _number(walk.events, update.after)
        writes: dict[str, list[Write]] = {}
        for write in recording.trace.writes:
            if begin < write.after <= end:
                writes.setdefault(write.tensor, []).append(write)
        by_name = {pair.name: pair for pair in pairs}
        found = [
            _complete(update, mine, by_name[name])
            for name, mine in writes.items()
            if name in by_name and by_name[name].stop - by_name[name].start >= 16
        ]
        counts += [sorted(found)[len(found) // 2]] if found else []
    return max(counts, default=None)


def _number(events: Sequence[Event], event: Event) -> int:
    return next(n for n, other in enumerate(events) if other is event)


def _complete(update: Update, writes: Sequence[Write], pair: TensorPair) -> int:
    snapshot: Snapshot | None = update.before.snapshot
    assert snapshot is not None and update.after.snapshot is not None
    source = update.after.snapshot.student if update.source is None else update.source
    student, at = source[pair.sampled], snapshot.teacher[pair.sampled]
    noise = _noise(at, at, torch.full_like(at, torch.finfo(pair.teacher.dtype).eps))
    count = 0
    for write in writes:
        now = write.sample
        d, x = now - at, student - at
        if not bool(d.any()):
            continue
        share = float((x * d / noise**2).sum() / (x * x / noise**2).sum().clamp(min=1e-300))
        left = d - share * x
        if 1e-7 < share < 0.9 and _chi(left, noise) < 3 and _share(left, d) < 0.05:
            count += 1
            at = now
    return max(1, count)
