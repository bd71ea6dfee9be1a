"""How many complete updates fell between two snapshots, counted from the writes that tracing saw."""

from collections.abc import Sequence

import torch

from hjepa.audit.measure.regression import chi_of, residual_share, rounding_noise
from hjepa.audit.measure.updates import Update
from hjepa.audit.measure.walk import Walk
from hjepa.audit.observe.program.tensor_pairs import TensorPair
from hjepa.audit.observe.recording import Event, Recording, Snapshot, Write


def traced_updates(recording: Recording, walk: Walk, pairs: Sequence[TensorPair]) -> int | None:
    """Return how many complete updates fell between two snapshots, counted from traced writes; None if unknown.

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
    noise = rounding_noise(at, at, torch.full_like(at, torch.finfo(pair.teacher.dtype).eps))
    count = 0
    for write in writes:
        now = write.sample
        d, x = now - at, student - at
        if not bool(d.any()):
            continue
        share = float((x * d / noise**2).sum() / (x * x / noise**2).sum().clamp(min=1e-300))
        left = d - share * x
        if 1e-7 < share < 0.9 and chi_of(left, noise) < 3 and residual_share(left, d) < 0.05:
            count += 1
            at = now
    return max(1, count)
