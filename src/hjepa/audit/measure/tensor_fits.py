"""Tensor by tensor over all updates: does it make the step of the others?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hjepa.audit.measure.regression import rounding_noise
from hjepa.audit.measure.updates import Update, same
from hjepa.audit.measure.walk import Walk
from hjepa.audit.observe.program.tensor_pairs import TensorPair


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


def fit_tensors(
    updates: Sequence[Update], walk: Walk, pairs: Sequence[TensorPair], rounding: Tensor
) -> list[TensorFit]:
    """Return every tensor's own step beside that of all."""
    used = [u for u in updates if u.fit is not None and u.source is not None and u.fit.momentum < 1]
    snapshots = [event for event in walk.snapshots if id(event) not in walk.training.exchanged]
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
        weight = (rounding_noise(a.teacher, b.teacher, rounding, b.student) ** 2 + unsure**2).reciprocal()
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
        student_moved = len(first.student) == size and not same(first.student[part], last.student[part])
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
