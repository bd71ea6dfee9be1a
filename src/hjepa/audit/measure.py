"""From samples of the weights to what happened: updates, their order, the momentum really applied, the lag.

The event model, the regressions and the rules of what can be told are those of docs/audit.md: one update is
``t1 = t0 + a (c - t0)`` in every coordinate, with ``a = 1 - momentum`` and ``c`` the student.  The difference
basis is used because teacher and student are almost collinear, and ``s t0`` is fitted besides because the two
coefficients need not sum to 1.  Coordinates are weighted by what rounding leaves of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hjepa.audit.pairing import TensorPair
from hjepa.audit.recording import Event, Kind, Look, Recording, Write

AFTER_STEP, BETWEEN_FORWARDS, BEFORE_STEP = "A", "B'", "C"
INSIDE_STEP, BETWEEN_MICRO_BATCHES = "inside-step", "micro-batch"
UNEXPLAINED = 8.0  # residual in units of rounding above which no formula explains an update
INDEPENDENT = 1e-3  # share of |d| below which a residual is small whatever the rounding


@dataclass
class Fit:
    """One update explained by the student: ``momentum``, its standard error, and what is left.

    ``chi``: residual in units of the rounding of one update, ``rest``: as a share of the update's size.
    ``excess``: ``s``, by how much the two coefficients miss a sum of 1.
    """

    momentum: float
    error: float
    chi: float
    rest: float
    excess: float = 0.0
    excess_error: float = 0.0

    @property
    def explains(self) -> bool:
        """Whether rounding, or next to nothing, is left."""
        return self.chi < UNEXPLAINED or self.rest < INDEPENDENT

    @property
    def only_decays(self) -> bool:
        """Whether the teacher shrank and the student has no share that could be told from none."""
        shrinks = self.excess < -max(1e-5, 6 * self.excess_error)
        return self.explains and shrinks and abs(1 - self.momentum) < max(6 * self.error, 0.2 * -self.excess)


@dataclass
class Update:
    """One change of the teacher between two looks."""

    step: int  # optimizer steps finished before
    version: int  # of these, those that changed the student
    position: str
    before: Event
    after: Event
    first: bool  # the first since the student changed
    evaluation: bool
    skipped: bool
    student_changed: bool
    held_by_optimizer: bool = False
    teacher_alone: bool = False  # since the last step only the teacher ran, and no backward pass
    fit: Fit | None = None
    decay: float | None = None  # what the teacher was multiplied with, where nothing of the student was added
    stale: float | None = None  # share of the student before the last step in what was averaged: 0 new, 1 old
    stale_error: float | None = None
    source: Tensor | None = field(default=None, repr=False)


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


@dataclass
class Measurement:
    """Everything that the rules need to know about values."""

    updates: list[Update]
    tensors: list[TensorFit]
    steps: int  # optimizer steps seen
    effective: int  # of these, those that changed the student
    skipped: int  # optimizer steps that were skipped
    by_optimizer: int  # steps in which the optimizer moved the teacher
    student_jumps: int  # changes of the student outside its optimizer's step
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
    walk = _Walk(recording)
    walk.run()
    rounding = _rounding(pairs)
    segments = _segments(pairs)
    for update in walk.updates:
        _explain(update, walk.previous.get(update.version), rounding, segments)
    rounding_only = [update for update in walk.updates if _is_rounding(update)]
    by_optimizer = [u for u in walk.updates if _is_the_optimizers(u) and not _is_rounding(u)]
    dropped = {id(update) for update in (*by_optimizer, *rounding_only)}
    walk.updates = [update for update in walk.updates if id(update) not in dropped]
    seen: set[int] = set()
    for update in walk.updates:
        update.first = update.version not in seen
        seen.add(update.version)
    _find_evaluations(walk)
    result = Measurement(
        walk.updates,
        _tensors(walk.updates, walk, pairs, rounding),
        steps=recording.steps,
        effective=walk.version,
        skipped=walk.skips,
        by_optimizer=walk.by_optimizer + len(by_optimizer),
        student_jumps=len(walk.student_jumps),
        lags=walk.lags(),
        per_step=_per_step(walk.updates),
        micro_batches=walk.micro_batches,
        evaluations=len(walk.evaluations),
        longest_life=walk.longest_life(),
    )
    counted = _traced_updates(recording, walk, pairs)
    result.per_interval, result.writes_counted = counted or 1, counted is not None
    return result


def _find_evaluations(walk: "_Walk") -> None:
    """Mark updates between two forwards of the teacher alone, now and then: the first of the two made no target."""
    between = [
        update
        for update in walk.updates
        if update.teacher_alone and not update.first and update.after.kind is Kind.TEACHER_FORWARD
    ]
    if len({update.version for update in between}) < max(2, walk.version / 2):  # else: several in each step
        for update in between:
            update.evaluation = True


def _is_the_optimizers(update: Update) -> bool:
    """Return whether an optimizer that holds the teacher moved it, not towards the student."""
    if update.position != INSIDE_STEP or not update.held_by_optimizer:
        return False
    fit = update.fit
    return fit is None or not fit.explains or 1 - fit.momentum < 10 * fit.error or abs(fit.excess) > 1e-5


def _is_rounding(update: Update) -> bool:
    """Return whether nothing but rounding changed: the average of two equal networks."""
    a, b = update.before.look, update.after.look
    if a is None or b is None or update.fit is None or len(a.teacher) != len(b.teacher):
        return False
    moved = (b.teacher - a.teacher).abs()
    spacing = 2.4e-7 * torch.maximum(a.teacher.abs(), b.teacher.abs())  # two units of float32
    return bool((moved <= spacing).all()) and 1 - update.fit.momentum < 1e-6


# ---------------------------------------------------------------------- what happened when


class _Walk:
    """Goes through the events once and finds the updates."""

    def __init__(self, recording: Recording) -> None:
        self.events = recording.events
        self.updates: list[Update] = []
        self.version = 0
        self.skips = 0
        self.by_optimizer = 0
        self.student_jumps: list[Event] = []
        self.micro_batches = 1.0
        self.versions: list[int] = []  # the student's version at each event
        self.previous: dict[int, Tensor] = {}  # version -> the student before it became this one
        self.looks = [event for event in self.events if event.look is not None]
        self.aside = self._backwards_aside()
        self.evaluations = self._teacher_evaluations()

    def _teacher_evaluations(self) -> set[int]:
        """Return the teacher's forwards (by id) that are not of training: in modes in which it makes no target."""
        training: set[Any] = set()
        last: Event | None = None
        for event in self.events:
            if event.kind is Kind.TEACHER_FORWARD and not _evaluates(event):
                last = event
            elif event.kind is Kind.BACKWARD and last is not None:
                training.add(last.facts.get("modes"))
            elif event.kind is Kind.STEP_END:
                last = None
        forwards = [event for event in self.events if event.kind is Kind.TEACHER_FORWARD]
        return {id(event) for event in forwards if training and event.facts.get("modes") not in training}

    def _backwards_aside(self) -> set[int]:
        """Return backward passes (by id) for another network, whose gradients in the student were thrown away."""
        found: set[int] = set()
        waiting: list[int] = []
        for event in self.events:
            if event.facts.get("cleared"):
                found.update(waiting)
            if event.facts.get("cleared") or event.kind in (Kind.STEP, Kind.STEP_END):
                waiting = []
            if event.kind is Kind.BACKWARD and event.facts.get("for_another"):
                waiting.append(id(event))
        return found.union(waiting)  # what the window's end cut off was not used either

    def run(self) -> None:
        last: Event | None = None
        forwards: set[Kind] = set()  # of training, since the last optimizer step
        backwards = 0
        counts: list[int] = []
        alone = False
        updated: set[int] = set()
        for number, event in enumerate(self.events):
            if event.kind is Kind.REPLACED:
                last = None  # another module: what changed is not an update
            if event.look is not None:
                if last is not None and last.look is not None:
                    if event.kind is Kind.TEACHER_FORWARD and alone and not _same_teacher(last, event):
                        forwards.discard(Kind.TEACHER_FORWARD)  # no pass of training has an update in its middle
                    self._compare(last, event, number, forwards, backwards, updated, alone=alone)
                if event.kind is Kind.STEP_END and last is not None:
                    self._student_moved(last, event)
                last = event
            self.versions.append(self.version)
            if event.kind in (Kind.STUDENT_FORWARD, Kind.BACKWARD, Kind.STEP, Kind.STEP_END):
                alone = False
            elif event.kind is Kind.TEACHER_FORWARD:
                alone = not backwards and Kind.STUDENT_FORWARD not in forwards
            if event.kind in (Kind.TEACHER_FORWARD, Kind.STUDENT_FORWARD) and not self._is_evaluation(event):
                forwards.add(event.kind)
            elif event.kind is Kind.BACKWARD and id(event) in self.aside:
                forwards, backwards = set(), 0  # what ran before it was for the other network
            elif event.kind is Kind.BACKWARD:
                backwards += 1
            elif event.kind is Kind.STEP_END:
                counts.append(backwards)
                forwards, backwards = set(), 0
        self._count_skips()
        known = sorted(counts[1:])  # the first was perhaps seen only in part
        if known:
            self.micro_batches = known[len(known) // 2]

    def _student_moved(self, before: Event, after: Event) -> None:
        assert before.look is not None and after.look is not None
        if not torch.equal(before.look.student, after.look.student):
            self.version += 1
            self.previous[self.version] = before.look.student

    def _compare(
        self,
        last: Event,
        event: Event,
        number: int,
        forwards: set[Kind],
        backwards: int,
        updated: set[int],
        *,
        alone: bool,
    ) -> None:
        a, b = last.look, event.look
        assert a is not None and b is not None
        inside = event.kind is Kind.STEP_END
        if a.teacher.shape != b.teacher.shape:
            return
        if not inside and not _same(a.student, b.student):
            self.student_jumps.append(event)
        if _same(a.teacher, b.teacher):
            return
        if inside and self._optimizer_moves_teacher(number):
            self.by_optimizer += 1
            return
        version = self.version + (1 if inside and not torch.equal(a.student, b.student) else 0)
        if inside and version > self.version:
            self.previous[version] = a.student
        update = Update(
            step=event.step if not inside else event.step + 1,
            version=version,
            position=self._position(last, event, forwards, backwards),
            before=last,
            after=event,
            first=version not in updated,
            evaluation=_evaluates(event) or _evaluates(last) or (alone and id(last) in self.evaluations),
            teacher_alone=alone,
            skipped=self._skipped(number, backwards, forwards, version in updated),
            student_changed=not inside and not _same(a.student, b.student),
            held_by_optimizer=inside and self._held(number),
        )
        updated.add(version)
        self.updates.append(update)

    def _is_evaluation(self, event: Event) -> bool:
        return id(event) in self.evaluations or _evaluates(event)

    def _held(self, number: int) -> bool:
        step = next(event for event in reversed(self.events[:number]) if event.kind is Kind.STEP)
        return bool(step.facts.get("teacher_held"))

    def _optimizer_moves_teacher(self, number: int) -> bool:
        """Return whether the step that ends here trains the teacher as well."""
        step = next(event for event in reversed(self.events[:number]) if event.kind is Kind.STEP)
        return bool(step.facts.get("teacher_held") and step.facts.get("teacher_gradients"))

    @staticmethod
    def _position(last: Event, event: Event, forwards: set[Kind], backwards: int) -> str:
        if event.kind is Kind.STEP_END:
            return INSIDE_STEP
        if Kind.TEACHER_FORWARD not in forwards:
            if Kind.STUDENT_FORWARD in forwards and event.kind is Kind.TEACHER_FORWARD:
                return BETWEEN_FORWARDS
            return BEFORE_STEP if Kind.STUDENT_FORWARD in forwards and backwards else AFTER_STEP
        if backwards and event.kind in (Kind.TEACHER_FORWARD, Kind.STUDENT_FORWARD):
            return BETWEEN_MICRO_BATCHES
        return BEFORE_STEP

    def _skipped(self, number: int, backwards: int, forwards: set[Kind], again: bool) -> bool:
        """Return whether the optimizer step before this update did not happen."""
        if again and not backwards and Kind.STUDENT_FORWARD in forwards:
            self.skips += 1
            return True  # forwards in training, but neither backward nor step: a loss guard
        if not backwards:  # right after a step: was it one?
            for event in reversed(self.events[:number]):
                if event.kind is Kind.STEP:
                    return bool(event.facts.get("found_inf"))
                if event.kind is Kind.SCALER_STEP and event.facts.get("stepped") is False:
                    return True
            return False
        for event in reversed(self.events[:number]):
            if event.kind is Kind.STEP_END:
                break
            if event.kind is Kind.SCALER_STEP and event.facts.get("stepped") is False:
                return True
        for event in self.events[number:]:
            if event.facts.get("cleared"):
                return True
            if event.kind in (Kind.BACKWARD, Kind.STEP):
                return False
        return False

    def _count_skips(self) -> None:
        for number, event in enumerate(self.events):
            thrown_away = event.kind is Kind.SCALER_STEP and event.facts.get("stepped") is False
            if thrown_away or (event.kind is Kind.STEP and event.facts.get("found_inf")):
                self.skips += 1
            elif event.kind is Kind.BACKWARD and event.facts.get("cleared"):
                before = [e for e in self.events[:number] if e.kind in (Kind.SCALER_STEP, Kind.BACKWARD)]
                self.skips += not before or not (before[-1].kind is Kind.SCALER_STEP or id(before[-1]) in self.aside)

    def longest_life(self) -> int:
        """Return the most versions of the student that were seen between two replacements of the teacher."""
        replaced = [self.versions[n] for n, event in enumerate(self.events) if event.kind is Kind.REPLACED]
        return max(after - before for before, after in pairwise([0, *replaced, self.version]))

    def lags(self) -> list[tuple[int, int]]:
        """Return (optimizer step, student versions missing) at each teacher forward in training."""
        if not self.updates:
            return []
        found = []
        position = 0
        contained = 0
        order = {id(event): number for number, event in enumerate(self.events)}
        for number, event in enumerate(self.events):
            while position < len(self.updates) and order[id(self.updates[position].after)] <= number:
                update = self.updates[position]
                old = update.stale is not None and update.stale > 0.5
                contained = max(contained, update.version - (1 if old else 0))
                position += 1
            trains = event.kind is Kind.TEACHER_FORWARD and event.look is not None and not self._is_evaluation(event)
            if trains and self.versions[number] > 0:
                found.append((event.step, self.versions[number] - contained))
        return found


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(torch.nan_to_num(a, nan=0.5), torch.nan_to_num(b, nan=0.5)) and torch.equal(a.isnan(), b.isnan())


def _same_teacher(before: Event, after: Event) -> bool:
    a, b = before.look, after.look
    return a is None or b is None or a.teacher.shape != b.teacher.shape or _same(a.teacher, b.teacher)


def _evaluates(event: Event) -> bool:
    """Return whether the student is in evaluation mode at this event, or evaluated without gradient."""
    if event.kind is Kind.STUDENT_FORWARD and event.facts.get("gradients") is False:
        return True
    modes = event.look.student_modes if event.look is not None else ()
    return bool(modes) and not any(modes) and event.kind is not Kind.STEP


def _per_step(updates: Sequence[Update]) -> float | None:
    """Return updates for each effective optimizer step, over the steps between the first and last update."""
    versions = [update.version for update in updates if update.version > 0]
    if len(set(versions)) < 2:
        return None
    first, last = min(versions), max(versions)
    return sum(first <= version < last for version in versions) / (last - first)


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


def _noise(t0: Tensor, t1: Tensor, rounding: Tensor, student: Tensor | None = None) -> Tensor:
    """Return the rounding error of one update, about half a unit in the last place of the larger value."""
    size = torch.maximum(t0.abs(), t1.abs())
    if student is not None:  # a product with a small share is rounded too; a teacher at 0 would count for ever
        size = torch.maximum(size, 1e-4 * torch.nan_to_num(student).abs())
    return 0.5 * rounding * torch.clamp(size, min=1e-30) + 1e-38


def _explain(update: Update, previous: Tensor | None, rounding: Tensor, segments: Tensor) -> None:
    """Fit the update with the student as it is; where it used the student before the last step, with that."""
    a, b = update.before.look, update.after.look
    assert a is not None and b is not None
    t0, t1, current = a.teacher, b.teacher, b.student
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


def fit(t0: Tensor, t1: Tensor, student: Tensor, noise: Tensor) -> Fit:
    """Return the momentum that explains ``t0 -> t1`` with ``student``; all float64 ``[n]``."""
    d, x = t1 - t0, student - t0
    solved = _least_squares(torch.stack([t0, x], dim=1), d, noise)
    if solved is None:
        weight = noise**-2
        share = float((weight * x * d).sum() / (weight * x * x).sum().clamp(min=1e-300))
        left = d - share * x
        error = max(float((weight * x * x).sum().rsqrt()), _bias(d, x, noise))
        return Fit(1 - share, error, _chi(left, noise), _share(left, d))
    values, errors, chi, left = solved
    return Fit(
        momentum=1.0 - float(values[1]),
        error=max(float(errors[1]) * max(1.0, chi), _bias(d, x, noise)),
        chi=chi,
        rest=_share(left, d),
        excess=float(values[0]),
        excess_error=float(errors[0]) * max(1.0, chi),
    )


def _bias(d: Tensor, x: Tensor, noise: Tensor) -> float:
    """Return by how much rounding may bend the share, where it need not be independent of the step.

    A number that is averaged with its equal is rounded to the same side again and again, so steps of a few
    units in the last place may all point away from the student.
    """
    size = (x / noise).abs()
    return float(0.5 * size[d.abs() <= 4 * noise].sum() / (size * size).sum().clamp(min=1e-300))


def _chi(left: Tensor, noise: Tensor) -> float:
    return float(((left / noise) ** 2).mean().sqrt())


def _share(left: Tensor, whole: Tensor) -> float:
    return float(left.norm() / whole.norm().clamp(min=1e-300))


def _least_squares(x: Tensor, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, float, Tensor] | None:
    """Return weighted least squares: values, standard errors, chi, residuals; None if not solvable."""
    w = x / noise[:, None]
    scale = w.norm(dim=0)
    if not bool((scale > 0).all()) or not bool(torch.isfinite(scale).all()):
        return None
    q = w / scale
    normal = q.T @ q
    if float(torch.linalg.eigvalsh(normal)[0]) < 1e-12:
        return None
    inverse = torch.linalg.inv(normal)
    values = (inverse @ (q.T @ (y / noise))) / scale
    left = y - x @ values
    return values, inverse.diagonal().clamp(min=0).sqrt() / scale, _chi(left, noise), left


# ---------------------------------------------------------------------- tensor by tensor


def _tensors(updates: Sequence[Update], walk: _Walk, pairs: Sequence[TensorPair], rounding: Tensor) -> list[TensorFit]:
    used = [u for u in updates if u.fit is not None and u.source is not None and u.fit.momentum < 1]
    if not walk.looks:
        return []
    first, last = walk.looks[0].look, walk.looks[-1].look
    assert first is not None and last is not None
    size = len(rounding)
    top, bottom, square, plain = (torch.zeros(size, dtype=torch.float64) for _ in range(4))
    moved = torch.zeros(size, dtype=torch.bool)
    largest = torch.zeros(size, dtype=torch.float64)  # step in units of rounding
    shrunk, own, whole = (torch.zeros(size, dtype=torch.float64) for _ in range(3))  # sums of d t0, t0 t0, d d
    for update in updates:
        a, b = update.before.look, update.after.look
        assert a is not None and b is not None
        if len(a.teacher) == size:
            moved |= a.teacher != b.teacher
            old, step = torch.nan_to_num(a.teacher), torch.nan_to_num(b.teacher - a.teacher)
            shrunk, own, whole = shrunk + step * old, own + old * old, whole + step * step
    for update in used:
        a, b = update.before.look, update.after.look
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


def _traced_updates(recording: Recording, walk: _Walk, pairs: Sequence[TensorPair]) -> int | None:
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
    look: Look | None = update.before.look
    assert look is not None and update.after.look is not None
    student, at = update.after.look.student[pair.sampled], look.teacher[pair.sampled]
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
