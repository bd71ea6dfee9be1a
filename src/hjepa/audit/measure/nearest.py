"""Which published methods a measured momentum resembles."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hjepa.audit.measure.schedule_kind import kind_of
from hjepa.audit.specs.checks import is_number, is_whole
from hjepa.audit.specs.published import PROFILES
from hjepa.audit.specs.spec import Spec

SEEN_START = 3  # update number up to which a series shows the start of its schedule
SAME_START = 0.05  # in log(1 - m): two starts that are the same
_SHARE_FLOOR = 1e-7  # least share of the student told from 0 when momenta are compared


@dataclass(frozen=True)
class Match:
    """How near a published method is: ``distance`` 0 is equal, 0.7 a factor of two in the student's share."""

    spec: Spec
    distance: float
    says: str


def nearest(
    measured: Sequence[float], steps: Sequence[int], *, order: str | None, total_steps: int | None
) -> list[Match]:
    """Rank the published profiles by their distance from a measured series, nearest first; [] for an empty one.

    The distance is the root mean square of the difference in log(1 - m), plus 0.5 for an order that the method does
    not use, plus 0.05 for another kind. A window of 20 updates is short: several methods often share the first place,
    which the order of ``PROFILES`` then decides. Where the horizon is not known, the start is compared.
    """
    pairs = _finite(measured, steps)
    if not pairs:
        return []
    values, places = [value for value, _ in pairs], [step for _, step in pairs]
    kind, first, last = kind_of(values, [], places), _show(values[0]), _show(values[-1])
    saw = f"measured {kind or 'momentum'} " + (first if first == last else f"from {first} to {last}")
    matches = []
    for name, profile in PROFILES.items():
        if name in ("custom", "auto"):
            continue
        try:
            spec = profile(total_steps)
        except ValueError:  # this method cannot be run for so many steps
            spec = profile()
        spec = closest(spec, values, places)
        distance, words = _distance(pairs, spec, kind), f"{saw}; {name} prescribes {spec.summary}"
        if spec.momentum(places[-1]) is None:
            words += " (only the start was compared: the total number of steps is not known)"
        if order is None:
            words += "; order not determined"
        elif order in spec.orders:
            words += f"; order {order} as prescribed"
        else:
            words += f"; order {order} instead of {' or '.join(sorted(spec.orders))}"
            distance += 0.5
        matches.append(Match(spec, distance, words))
    return sorted(matches, key=lambda match: match.distance)


def closest(spec: Spec, measured: Sequence[float], steps: Sequence[int], kind: str | None = None) -> Spec:
    """Return that published setting of a method which is nearest to a measured series, the others beside it.

    The start decides, where it was seen: a setting whose start is right and whose curve is not has another
    schedule, not another momentum. Where the length of the run is not known, the measured ``kind`` does.
    """
    settings = (replace(spec, variants=()), *spec.variants)
    pairs = _finite(measured, steps)

    def rank(setting: Spec) -> tuple[bool, float, bool, float]:
        value, step = pairs[0]
        first = setting.momentum(step)
        off = _apart(value, setting.start if first is None else first)
        seen = step <= SEEN_START
        open_ended = setting.total_steps is None and setting.kind in ("linear", "cosine")
        unlike = kind is not None and open_ended != (kind != "constant") and setting.total_steps is None
        return seen and off > SAME_START, round(off, 2) if seen else 0.0, unlike, _distance(pairs, setting, None)

    best = min(settings, key=rank) if pairs else settings[0]
    return replace(best, variants=tuple(setting for setting in settings if setting is not best))


_Pair = tuple[float, int]  # momentum, update number


def _finite(measured: Sequence[float], steps: Sequence[int]) -> list[_Pair]:
    return [(value, step) for value, step in zip(measured, steps, strict=False)
            if is_number(value) and math.isfinite(value) and is_whole(step)]  # fmt: skip


def _distance(pairs: Sequence[_Pair], spec: Spec, kind: str | None) -> float:
    known = [spec.momentum(step) for _, step in pairs]
    expected = [spec.start if value is None else value for value in known]
    squares = [_apart(value, target) ** 2 for (value, _), target in zip(pairs, expected, strict=True)]
    shown: str | None = None
    if kind is not None and None not in known:
        shown = kind_of(expected, [], [step for _, step in pairs])
    elif spec.kind == "linear" or (spec.kind == "cosine" and kind != "constant"):  # a cosine is flat at its start
        shown = spec.kind
    other = kind is not None and shown is not None and kind != shown
    return math.sqrt(sum(squares) / max(1, len(squares))) + (0.05 if other else 0.0)


def _apart(a: float, b: float) -> float:
    return abs(math.log(max(1.0 - a, _SHARE_FLOOR)) - math.log(max(1.0 - b, _SHARE_FLOOR)))


def _show(momentum: float) -> str:
    share = abs(1.0 - momentum)
    digits = 3 if share < 1e-12 else min(12, max(3, 1 - math.floor(math.log10(share))))
    return f"{momentum:.{digits}f}"
