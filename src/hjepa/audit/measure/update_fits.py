"""Which momentum explains each update, and which student it took in: that after the step, or that before it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hjepa.audit.measure.regression import fit, least_squares, rounding_noise
from hjepa.audit.measure.updates import INSIDE_STEP, Update, same
from hjepa.audit.observe.program.tensor_pairs import TensorPair


def explain(
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
        sources += [other for other in (b.student, a.student) if not any(same(other, one) for one in sources)]
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
    noise = rounding_noise(t0, t1, rounding, current)
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
    if int(usable.sum()) < 3 or same(t0, previous):
        return
    x = torch.stack([t0, current - t0, current - previous], dim=1)[usable]
    solved = least_squares(x, (t1 - t0)[usable], noise[usable])
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


def rounding_of(pairs: Sequence[TensorPair]) -> Tensor:
    """Return the relative spacing of each sampled coordinate's number format, float64 ``[n]``."""
    spacing = [
        torch.full((pair.stop - pair.start,), torch.finfo(pair.teacher.dtype).eps, dtype=torch.float64)
        for pair in pairs
        if pair.teacher.is_floating_point()
    ]
    return torch.cat(spacing) if spacing else torch.zeros(0, dtype=torch.float64)


def segments_of(pairs: Sequence[TensorPair]) -> Tensor:
    """Return which tensor each sampled coordinate belongs to, int64 ``[n]``."""
    return torch.cat([torch.full((p.stop - p.start,), n) for n, p in enumerate(pairs)] or [torch.zeros(0).long()])
