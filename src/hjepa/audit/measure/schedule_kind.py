"""Which kind of schedule a measured momentum follows: constant, linear, cosine, or one value per epoch."""

import itertools
import math
from collections.abc import Callable, Sequence

_FLOOR = 2.0**-24 / math.sqrt(12.0)  # error of rounding to float32 in [0.5, 1): loops may keep momentum in it


def kind_of(measured: Sequence[float], errors: Sequence[float], steps: Sequence[int] = ()) -> str | None:
    """Return constant, linear, cosine or per-epoch, None when these values do not tell.

    ``errors`` are standard errors (empty: only the rounding of float32, which is the least assumed in any case),
    ``steps`` the update numbers, by default 0, 1, 2, ... Fits by least squares a constant, a line, a half cosine
    that begins at update 0 (line and cosine with a free horizon, after which they stay) and stairs. One that fits is
    named if it is clearly better than the others that fit; constant needs only that none is clearly better than it,
    so it means "no change is visible". A window far from update 0 cannot tell a line from a cosine: None.
    """
    given = list(errors) or [0.0] * len(measured)
    places = list(steps) or list(range(len(measured)))
    rows = [(float(x), y, max(e, _FLOOR)) for x, y, e in zip(places, measured, given, strict=False)
            if math.isfinite(y) and math.isfinite(e)]  # fmt: skip
    if len(rows) < 4:
        return None
    span = max(rows[-1][0] - rows[0][0], 1.0)
    reach = max(rows[-1][0], 1.0)
    horizons = [reach * 0.3 * 1.15**power for power in range(60)]
    bends = [x for x, _, _ in rows[2:-1]]
    flat = _misfit(rows)
    fits = {  # misfit (chi squared), number of parameters
        "constant": (flat, 1),
        "linear": min(
            (_misfit(rows, lambda x: x), 2),
            (_best_horizon(bends, lambda end: _misfit(rows, lambda x: min(x, end))), 3),
            key=lambda fit: fit[0] + fit[1] * math.log(len(rows)),
        ),
        "cosine": (
            _best_horizon(horizons, lambda end: _misfit(rows, lambda x: 1.0 - math.cos(math.pi * min(1.0, x / end)))),
            3,
        ),
        "per-epoch": _stairs(rows),
    }
    scores = {kind: misfit + count * math.log(len(rows)) for kind, (misfit, count) in fits.items()
              if _fits(misfit, len(rows) - count)}  # fmt: skip
    if not scores:  # the curve of a cosine that began elsewhere
        halves = [span * 1.15**power for power in range(50)]
        free = _best_horizon(halves, lambda end: _misfit(
            rows, lambda x: math.sin(math.pi * (x - rows[0][0]) / end),
            lambda x: 1.0 - math.cos(math.pi * (x - rows[0][0]) / end)))  # fmt: skip
        return "cosine" if _fits(free, len(rows) - 4) else None
    clearly = 12.0
    best = min(scores, key=lambda kind: scores[kind])
    if "constant" in scores and scores["constant"] < scores[best] + clearly:
        return "constant"
    rivals = [score for kind, score in scores.items() if kind not in (best, "constant")]
    return best if all(score >= scores[best] + clearly for score in rivals) else None


_Row = tuple[float, float, float]  # update number, value, standard error


def _misfit(rows: Sequence[_Row], *shapes: Callable[[float], float]) -> float:
    """Return chi squared of the best constant plus multiples of ``shapes``."""
    weights = [1.0 / error for _, _, error in rows]
    rest = [(value - rows[0][1]) * weight for (_, value, _), weight in zip(rows, weights, strict=True)]
    basis: list[list[float]] = []
    for shape in (lambda _: 1.0, *shapes):
        column = [shape(x) * weight for (x, _, _), weight in zip(rows, weights, strict=True)]
        length = math.hypot(*column)
        for _ in range(2):  # twice: the columns are nearly parallel
            for unit in basis:
                column = _remove(column, unit)
        if math.hypot(*column) > 1e-9 * length:
            basis.append([entry / math.hypot(*column) for entry in column])
            rest = _remove(rest, basis[-1])
    return sum(entry * entry for entry in rest)


def _remove(vector: list[float], unit: list[float]) -> list[float]:
    along = sum(a * b for a, b in zip(vector, unit, strict=True))
    return [a - along * b for a, b in zip(vector, unit, strict=True)]


def _best_horizon(grid: Sequence[float], misfit: Callable[[float], float]) -> float:
    """Return the least misfit over the horizon: the best of the grid, then a golden section beside it."""
    if not grid:
        return math.inf
    at = min(range(len(grid)), key=lambda i: misfit(grid[i]))
    low, high = grid[max(0, at - 1)], grid[min(len(grid) - 1, at + 1)]
    golden, found = (math.sqrt(5.0) - 1.0) / 2.0, misfit(grid[at])
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        at_left, at_right = misfit(left), misfit(right)
        found = min(found, at_left, at_right)
        low, high = (low, right) if at_left < at_right else (left, high)
    return found


def _stairs(rows: Sequence[_Row]) -> tuple[float, int]:
    """Return misfit and parameters of steps: jumps beyond 5 errors, flat between, inner lengths equal."""
    jumps = [i for i in range(1, len(rows))
             if abs(rows[i][1] - rows[i - 1][1]) > 5.0 * math.hypot(rows[i][2], rows[i - 1][2])]  # fmt: skip
    treads = list(itertools.pairwise([0, *jumps, len(rows)]))
    lengths = [b - a for a, b in treads]
    inner = lengths[1:-1]
    regular = len(set(inner)) == 1 and inner[0] >= max(2, lengths[0], lengths[-1]) if inner else min(lengths) >= 2
    if not jumps or not regular:
        return math.inf, 1
    return sum(_misfit(rows[a:b]) for a, b in treads), 2 * len(treads) - 1


def _fits(misfit: float, freedom: int) -> bool:
    return freedom > 0 and misfit <= freedom + 6.0 * math.sqrt(2.0 * freedom)
