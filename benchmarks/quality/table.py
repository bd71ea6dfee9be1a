"""The table of an experiment, written from what is on disk."""

import json
import math
import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiment import Experiment
from scipy.stats import t as student_t

if TYPE_CHECKING:
    from lab import Lab


def write_table(lab: "Lab") -> Path:
    """Write the experiment's table from what is on disk; one that has rows is not replaced by an empty one."""
    e, path = lab.experiment, lab.results / f"{lab.name}.md"
    found = {variant: {seed: lab.result(variant, seed) for seed in e.seeds} for variant in e.variants}
    done = {v: {s: r for s, r in each.items() if r and "record" in r} for v, each in found.items()}
    found_rows = [row for each in done.values() for r in each.values() for row in r["results"]]
    several = len({row["n_train"] for row in found_rows}) > 1
    for row in found_rows:
        row["column"] = _column(row) + (f", {row['n_train']:,} labelled" if several else "")
    columns = sorted({row["column"] for row in found_rows})
    card = " --device cuda" if lab.device.kind == "cuda" else ""
    command = f"python benchmarks/quality/lab.py benchmarks/quality/experiments/{e.name}.yaml{card}"
    lines = [f"# {e.question}", "", f"`{command}`"]
    lines += ["", _protocol_in_words(e), ""]
    if columns:
        lines += [
            "| | steps | verdict | rank | " + " | ".join(columns) + " |",
            "|---|---|---|---|" + "---|" * len(columns),
        ]
        for variant, each in done.items():
            lines.append(_row(variant, list(each.values()), columns))
        lines += _controls(done, columns)
    records = [r["record"] for each in done.values() for r in each.values()]
    if precisions := sorted({record["precision"] for record in records}):
        devices = sorted({record.get("device", record["cpu"]) for record in records})
        lines += ["", f"Computed in {' and '.join(precisions)} on {' and '.join(devices)}."]
    unfinished = [f"{v}, seed {s}" for v, each in found.items() for s, r in each.items() if r is None]
    failures = [
        f"- **{v}**, seed {s}: {r['failure']}"
        for v, each in found.items()
        for s, r in each.items()
        if r and "failure" in r
    ]
    lines += ["", "Failed:", *failures] if failures else []
    lines += ["", f"Not run yet: {'; '.join(unfinished)}."] if unfinished else []
    lines += ["", "What each variant changes:", ""] + [f"- {v}: {_in_words(s)}" for v, s in e.variants.items()]
    lines += ["", f"All share: {_in_words(e.base)}.", *(["", e.conclusion.strip()] if e.conclusion else []), ""]
    lab.results.mkdir(parents=True, exist_ok=True)
    if columns or not path.exists():
        path.write_text("\n".join(lines))
    return path


def mean_and_interval(values: list[float]) -> str:
    """Return mean and 95 % interval of the mean over seeds, Student's t; of one or two seeds the mean alone.

    In per cent. Two seeds have an interval, but one that says nothing: 13 standard errors to each side.
    """
    mean = statistics.mean(values)
    if len(values) < 3:
        return f"{100 * mean:.1f}"
    half = student_t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


def _row(variant: str, runs: list[dict[str, Any]], columns: list[str]) -> str:
    if not runs:
        return f"| {variant} |" + " |" * (3 + len(columns))
    verdicts = sorted({run["record"]["verdict"]["verdict"] for run in runs})
    ranks = [
        float(m.group(1)) for run in runs if (m := re.search(r"rank ([\d.]+)", run["record"]["verdict"]["evidence"]))
    ]
    rank = f"{min(ranks):.0f} to {max(ranks):.0f}" if ranks else ""
    cells = [_cell(runs, column, lambda row: float(row["accuracy"])) for column in columns]
    return f"| {variant} | {runs[0]['record']['steps']} | {', '.join(verdicts)} | {rank} | " + " | ".join(cells) + " |"


def _controls(done: dict[str, dict[int, dict[str, Any]]], columns: list[str]) -> list[str]:
    """Return a row for raw pixels and one for the random-init encoder of each variant whose network differs."""
    runs = [run for each in done.values() for run in each.values()]
    raw = [_cell(runs[:1], column, lambda row: float(row["controls"]["raw_pixels"])) for column in columns]
    lines = ["| raw pixels | | | | " + " | ".join(raw) + " |"]
    seen: list[str] = []
    for variant, each in done.items():
        cells = [_cell(list(each.values()), c, lambda row: float(row["controls"]["random_init"])) for c in columns]
        if (line := " | ".join(cells)) not in seen and each:
            seen.append(line)
            lines.append(f"| random-init of {variant} | | | | {line} |")
    return lines


def _cell(runs: list[dict[str, Any]], column: str, value: Any) -> str:
    values = [value(row) for run in runs for row in run["results"] if row["column"] == column]
    return mean_and_interval(values) if values else ""


def _column(row: dict[str, Any]) -> str:
    level = "" if row["level"] == "last" else f" level {row['level']}"
    labels = "" if row["labels"] == "label" else f" {row['labels']}"
    return f"{row['protocol']}{labels} {row['pooling']}{level}"


def _protocol_in_words(e: Experiment) -> str:
    equal = _equal_in_words(e.equal)
    seeds, first = ", ".join(map(str, e.seeds)), e.evaluations[0]
    fit = " or ".join(f"{asked.get('max_train', 'all')}" for asked in e.evaluations)
    return (
        f"{e.data}; equal: {equal}, {e.threads} thread{'s' if e.threads > 1 else ''}; seeds {seeds}; "
        f"{first['train']} ({fit} images) to fit, {first['test']} to test. "
        "Per cent, mean and 95 % interval of the mean over seeds (Student's t); of one or two seeds their mean."
    )


def _equal_in_words(equal: dict[str, Any]) -> str:
    if "of" in equal:
        return f"time, that of {equal['steps']:,} steps of {equal['of']} (steps timed in turns)"
    return ", ".join(f"{value:g} {what} of training" for what, value in equal.items()) or "nothing"


def _in_words(settings: dict[str, Any]) -> str:
    return ", ".join(f"`{name}={json.dumps(value)}`" for name, value in settings.items()) or "nothing"
