"""The two figures of the page, as inline SVG: the order of events, and the measured momentum.

Colours come from the page's style, so that both figures follow its light and dark mode.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from hjepa.audit.judge.findings import TimelineEntry
from hjepa.audit.tell.phrases import Row, clean, count, momentum_digits
from hjepa.audit.tell.timeline import LANES, Gap, event_words, is_update, lane_of

_COLUMN, _LANE, _LEFT, _TOP = 29, 34, 130, 40  # of the event figure, in px: first mark at left and top
_WIDTH, _HEIGHT = 440, 270  # of the momentum figure
_DOTS = 150  # more updates are thinned out
_FAR = 10.0  # a momentum beyond this is drawn at the frame
_BARS = 2  # length of an error bar in standard errors


def events_figure(shown: Sequence[TimelineEntry | Gap], name: str) -> str:
    """Return the events in lanes, numbered as in the list next to it; ``name`` makes ids unique on the page."""
    lanes = [*LANES, "other"] if any(_lane(event) == len(LANES) for event in shown) else list(LANES)
    width = max(300, _LEFT + _COLUMN * max(1, len(shown)))
    height = _TOP + _LANE * len(lanes) - 12
    points = [(_LEFT + _COLUMN * i, _height_of(event)) for i, event in enumerate(shown)]
    drawn = [(i, event) for i, event in enumerate(shown) if isinstance(event, TimelineEntry)]
    path = " ".join(f"{points[i][0]},{points[i][1]}" for i, _ in drawn)
    pieces = [_band(shown, height)]
    left, right = _LEFT - 0.5 * _COLUMN, _LEFT + _COLUMN * (len(shown) - 0.5)
    for y in (_TOP + _LANE * i for i in range(len(lanes))):
        pieces.append(f'<line class="lane" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
    pieces.append(f'<polyline class="path" points="{path}"/>')
    for i, lane in enumerate(lanes):
        strong = ' class="update-label"' if lane == "teacher update" else ""
        pieces.append(f'<text x="0" y="{_TOP + _LANE * i + 4}"{strong}>{lane}</text>')
    pieces += [_mark(i, event, points[i]) for i, event in drawn]
    pieces += [
        f'<text class="middle" x="{points[i][0]}" y="{points[i][1] + 4}">…</text>'
        for i, event in enumerate(shown)
        if isinstance(event, Gap)
    ]
    about = "; ".join(f"{i}: {event_words(event)}" for i, event in enumerate(shown, 1))
    return _svg(name, "events", width, height, "Order of events in two recorded steps", about, pieces)


def _lane(event: TimelineEntry | Gap) -> int | None:
    if isinstance(event, Gap):
        return None
    lane = lane_of(event.what)
    return len(LANES) if lane is None else lane


def _height_of(event: TimelineEntry | Gap) -> int:
    lane = _lane(event)
    return _TOP + _LANE * (2 if lane is None else lane)


def _band(shown: Sequence[TimelineEntry | Gap], height: int) -> str:
    """Return a background for each step with its number above."""
    pieces = []
    for k, step in enumerate(dict.fromkeys(event.step for event in shown)):
        columns = [i for i, event in enumerate(shown) if event.step == step]
        x, width = _LEFT + _COLUMN * (columns[0] - 0.5), _COLUMN * len(columns)
        pieces.append(f'<rect class="band{k % 2}" x="{x}" y="20" width="{width}" height="{height - 21}" rx="3"/>')
        pieces.append(f'<text class="step" x="{x + width / 2}" y="14">step {step}</text>')
    return "".join(pieces)


def _mark(i: int, event: TimelineEntry, point: tuple[int, int]) -> str:
    kind = "mark update" if is_update(event) else "mark"
    kind += " skipped" if "skip" in event.what.lower() else ""
    x, y = point
    return (
        f'<g class="{kind}"><title>{_text(event_words(event))}</title><circle cx="{x}" cy="{y}" r="11"/>'
        f'<text x="{x}" y="{y + 4}">{i + 1}</text></g>'
    )


class _Axis(NamedTuple):
    """Where values lie on the picture: from ``low`` at pixel ``start`` to ``high`` at pixel ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value, at the frame if it lies outside."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + min(1.0, max(0.0, share)) * (self.end - self.start), 1)


def momentum_figure(rows: Sequence[Row], name: str = "momentum") -> str:
    """Return measured momentum with error bars, and the specification's line, over optimizer steps."""
    low, high = _value_range(rows)
    ticks, digits = nice_ticks(low, high, 5)
    left = 32 + 7.4 * max(len(f"{tick:.{digits}f}") for tick in ticks)
    steps = [row.step for row in rows]
    room = max(0.5, (max(steps) - min(steps)) * 0.03)
    x = _Axis(min(steps) - room, max(steps) + room, left, _WIDTH - 12)
    y = _Axis(low, high, _HEIGHT - 44, 34)
    pieces = [_frame(x, y, ticks, digits), _specification(rows, x, y)]
    thinned = rows[:: math.ceil(len(rows) / _DOTS)]
    pieces += [_measurement(row, x, y) for row in thinned]
    pieces.append(_legend(rows, left))
    digits = momentum_digits([row.measured for row in rows])
    about = (
        f"{count(len(rows), 'update')} from step {min(steps)} to {max(steps)}: measured "
        f"{rows[0].measured:.{digits}f} at first and {rows[-1].measured:.{digits}f} at the end"
    )
    first, last = rows[0].expected, rows[-1].expected
    if first is not None and last is not None:
        about += f"; specified {first:.{digits}f} and {last:.{digits}f}"
    return _svg(name, "momentum", _WIDTH, _HEIGHT, "Measured momentum against the specification", about, pieces)


def _value_range(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the values to show: all means and prescriptions, and error bars that do not dwarf them."""
    values = [value for row in rows for value in (row.measured, row.expected) if value is not None]
    low, high = max(-_FAR, min(values)), min(_FAR, max(values))
    if low >= high:
        low = high = max(-_FAR, min(_FAR, values[0]))
    spread, distance = high - low, abs(1 - high)
    bars = sorted(_BARS * row.error for row in rows if row.error is not None)
    usual = min(bars[len(bars) // 2], max(spread, 0.5 * distance)) if bars else 0.0
    span = max(spread, 2 * usual, 2e-4 * distance, 4e-9)
    room = max([0.12 * span, *(bar for bar in bars if bar < 3 * span)]) + (span - spread) / 2
    return low - room, high + room


def nice_ticks(low: float, high: float, wanted: int) -> tuple[list[float], int]:
    """Return round numbers between two values, at most ``wanted`` + 1, and the decimals they need."""
    raw = (high - low) / wanted
    power = math.floor(math.log10(raw))
    step = next(factor * 10.0**power for factor in (1, 2, 2.5, 5, 10) if factor * 10.0**power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    digits = next((d for d in range(13) if abs(round(step, d) - step) < 1e-6 * step), 12)
    return [i * step for i in range(first, last + 1)] or [low], digits


def _frame(x: _Axis, y: _Axis, ticks: Sequence[float], digits: int) -> str:
    pieces = []
    for tick in ticks:
        pieces.append(f'<line class="grid" x1="{x.start:.1f}" x2="{x.end}" y1="{y(tick)}" y2="{y(tick)}"/>')
        pieces.append(f'<text class="end" x="{x.start - 7:.1f}" y="{y(tick) + 4:.1f}">{tick:.{digits}f}</text>')
    steps, _ = nice_ticks(x.low, x.high, 6)
    for step in (step for step in steps if abs(step - round(step)) < 1e-6):
        pieces.append(f'<line class="axis" x1="{x(step)}" x2="{x(step)}" y1="{y.start}" y2="{y.start + 4}"/>')
        pieces.append(f'<text class="middle" x="{x(step)}" y="{y.start + 18}">{round(step)}</text>')
    pieces.append(f'<line class="axis" x1="{x.start:.1f}" x2="{x.end}" y1="{y.start}" y2="{y.start}"/>')
    pieces.append(f'<text class="middle" x="{(x.start + x.end) / 2:.1f}" y="{_HEIGHT - 6}">optimizer step</text>')
    middle = (y.start + y.end) / 2
    words = "momentum (teacher's coefficient)"
    pieces.append(f'<text class="middle" transform="translate(12 {middle:.1f}) rotate(-90)">{words}</text>')
    return "".join(pieces)


def _specification(rows: Sequence[Row], x: _Axis, y: _Axis) -> str:
    """Return the prescribed line, interrupted where the specification has no value."""
    runs: list[list[str]] = [[]]
    for row in rows:
        if row.expected is None:
            runs.append([])
        else:
            runs[-1].append(f"{x(row.step)},{y(row.expected)}")
    lone = [f"{float(point.split(',')[0]) + dx:.1f},{point.split(',')[1]}" for r in runs if len(r) == 1
            for point in r for dx in (-12, 12)]  # fmt: skip
    lines = [run for run in runs if len(run) > 1] + [lone[i : i + 2] for i in range(0, len(lone), 2)]
    return "".join(f'<polyline class="prescribed" points="{" ".join(line)}"/>' for line in lines)


def _measurement(row: Row, x: _Axis, y: _Axis) -> str:
    px, py = x(row.step), y(row.measured)
    bar = ""
    if row.error:
        top, bottom = y(row.measured + _BARS * row.error), y(row.measured - _BARS * row.error)
        caps = "".join(f"M{px - 3},{end}h6" for end in (top, bottom) if end not in (y.start, y.end))  # none if cut
        bar = f'<path class="bar" d="M{px},{top}V{bottom}{caps}"/>'
    return f'{bar}<circle class="dot" cx="{px}" cy="{py}" r="3"/>'


def _legend(rows: Sequence[Row], left: float) -> str:
    bars = f" ± {_BARS} standard errors" if any(row.error for row in rows) else ""
    pieces = [
        f'<circle class="dot" cx="{left + 6:.1f}" cy="13" r="3.5"/>',
        f'<text x="{left + 15:.1f}" y="17">measured{bars}</text>',
    ]
    if any(row.expected is not None for row in rows):
        at = left + 95 + 6.3 * len(bars)
        pieces.append(f'<line class="prescribed" x1="{at:.1f}" x2="{at + 20:.1f}" y1="13" y2="13"/>')
        pieces.append(f'<text x="{at + 26:.1f}" y="17">specification</text>')
    return "".join(pieces)


def _svg(name: str, kind: str, width: int, height: int, title: str, about: str, pieces: Sequence[str]) -> str:
    limits = f"min-width:{0.8 * width:.0f}px;max-width:{width}px" if kind == "events" else "max-width:34rem"
    return (
        f'<svg class="{kind}" role="img" viewBox="0 0 {width} {height}" style="{limits}" '
        f'aria-labelledby="{name}-title {name}-about"><title id="{name}-title">{title}</title>'
        f'<desc id="{name}-about">{_text(about)}</desc>{"".join(pieces)}</svg>'
    )


def _text(words: str) -> str:
    return escape(clean(words).replace("`", ""))
