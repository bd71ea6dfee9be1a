"""Read a run folder for the report: whatever is there, and notes on what cannot be read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hjepa.errors import UserError


@dataclass(frozen=True)
class Record:
    """The content of a run folder; ``notes`` name what could not be read."""

    run: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    config: str | None
    evaluation: Mapping[str, Any]
    masks: Mapping[str, Any]
    audit: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_record(run: Path) -> Record:
    """Read the files of a run folder that the report shows."""
    if not (run / "run.json").is_file():
        raise UserError(f"{run} is not a run: it has no run.json; check the path")
    notes: list[str] = []
    facts = _read_object(run / "run.json", notes)
    if notes:
        raise UserError(f"{run / 'run.json'} cannot be read: restore it from a copy, or start a new run")
    config = run / "config.yaml"
    return Record(
        run=facts,
        metrics=_read_metrics(run / "metrics.jsonl", notes),
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else None,
        evaluation=_read_object(run / "evaluation.json", notes),
        masks=_read_object(run / "masks.json", notes),
        audit=_read_object(run / "audit.json", notes),
        notes=notes,
    )


def _read_object(path: Path, notes: list[str]) -> Mapping[str, Any]:
    """Return the JSON object in ``path``; empty if there is none, with a note if it is broken."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        notes.append(f"{path.name} could not be read ({error}).")
        return {}
    if not isinstance(content, dict):
        notes.append(f"{path.name} does not hold a JSON object.")
        return {}
    return content


def _read_metrics(path: Path, notes: list[str]) -> list[Mapping[str, Any]]:
    """Return the logged steps; broken lines (of a run killed while writing) are counted and skipped."""
    if not path.is_file():
        return []
    rows: list[Mapping[str, Any]] = []
    broken = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError:
            broken += 1
            continue
        if isinstance(row, dict):
            rows.append(row)
    if broken:
        notes.append(f"metrics.jsonl: {broken} broken line{'s' if broken > 1 else ''} skipped.")
    return rows
