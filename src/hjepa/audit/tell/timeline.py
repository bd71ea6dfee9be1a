"""The recorded order of events of two steps, in lanes and as a list."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from hjepa.audit.judge.findings import Finding, Result, TimelineEntry
from hjepa.audit.tell.phrases import count, quoted

LANES = ("teacher forward", "student forward", "backward", "optimizer step", "teacher update")
"""Lanes of the event figure."""
_LANE_WORDS = (
    re.compile(r"\b(teacher|target)( encoder)?('s)? forward"),
    re.compile(r"\b(student|context|online)( encoder)?('s)? forward"),
    re.compile(r"\bbackward"),
    re.compile(r"\boptimi[sz]er('s)? step|\bstep of the optimi[sz]er"),
    re.compile(r"\b(teacher|target|ema|momentum)( encoder)?('s)? (update|moves|moved|change)|update of the teacher"),
)
_ABOUT_ORDER = ("G5", "F3", "F4", "T4", "T7")  # besides all O codes: rules that the order of events explains
_EVENTS_OF_A_STEP = 10  # more are shown by their beginning and end


def lane_of(what: str) -> int | None:
    """Return the lane in which an event is drawn, or None if it is of another kind."""
    starts = [(match.start(), lane) for lane, words in enumerate(_LANE_WORDS) if (match := words.search(what.lower()))]
    return min(starts)[1] if starts else None


class Gap(NamedTuple):
    """Events of a long step that are not shown."""

    step: int
    left_out: int


def explained_by_events(finding: Finding) -> bool:
    """Whether the order of events is what shows the bug."""
    return finding.code.startswith("O") or finding.code in _ABOUT_ORDER


def events(report: Result, finding: Finding | None = None) -> list[TimelineEntry | Gap]:
    """Return what happened in two recorded steps, those of the finding's evidence if it names any."""
    by_step: dict[int, list[TimelineEntry]] = {}
    for entry in _without_plain_ends(report.timeline):
        by_step.setdefault(entry.step, []).append(entry)
    steps = list(by_step)
    pairs: list[tuple[int, ...]] = [*pairwise(steps)] or [tuple(steps)]
    named = {value for key in ("step", "steps") for value in _integers(finding, key)}

    def telling(pair: tuple[int, ...]) -> tuple[int, int]:
        kinds = {lane_of(entry.what) for step in pair for entry in by_step[step]}
        return len(named.intersection(pair)), len(kinds - {None})

    return [shown for step in max(pairs, key=telling) for shown in _shortened(by_step[step])]


def _without_plain_ends(timeline: Sequence[TimelineEntry]) -> list[TimelineEntry]:
    """Leave out "x ends" where it directly follows "x"."""
    kept: list[TimelineEntry] = []
    for entry in timeline:
        if not kept or entry.what != f"{kept[-1].what} ends":
            kept.append(entry)
    return kept


def _integers(finding: Finding | None, key: str) -> list[int]:
    value = finding.evidence.get(key) if finding else None
    values = value if isinstance(value, (list, tuple)) else [value]
    return [item for item in values if isinstance(item, int)]


def _shortened(entries: Sequence[TimelineEntry]) -> list[TimelineEntry | Gap]:
    if len(entries) <= _EVENTS_OF_A_STEP:
        return list(entries)
    gap = Gap(entries[0].step, len(entries) - _EVENTS_OF_A_STEP + 1)
    return [*entries[: _EVENTS_OF_A_STEP - 4], gap, *entries[-3:]]


def event_words(event: TimelineEntry | Gap) -> str:
    """Return one event in words, with its step."""
    if isinstance(event, Gap):
        return f"step {event.step}: {count(event.left_out, 'event')} omitted"
    where = f" ({quoted(event.location)})" if event.location else ""
    return f"step {event.step}: {event.what}{where}"


def is_update(event: TimelineEntry | Gap) -> bool:
    """Whether the event is an update of the teacher."""
    return isinstance(event, TimelineEntry) and lane_of(event.what) == LANES.index("teacher update")
