"""Build ``report.html`` from whatever a run folder contains so far.

The report is self-explanatory: a missing file or value is shown as a dash, and a file that cannot be
read is named on the page. Only a folder without ``run.json`` is refused.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, Undefined
from markupsafe import Markup

from hjepa.errors import UserError
from hjepa.files import write_atomically
from hjepa.report.plots import CURVES, Columns, Dot, curve_svg, level_curves, results_svg
from hjepa.report.record import Record, read_record

DASH = "\N{EN DASH}"
MEASURES = {  # keys of metrics.jsonl in the order of the report, with their descriptions
    "step": "optimizer step",
    "epoch": "epoch",
    "images": "images seen",
    "loss": "loss",
    "regulariser": "variance-covariance term (weighted)",
    "loss_mean_token": "loss of predicting the mean token",
    "loss_position_mean": "loss of predicting the mean at each position",
    "relative_loss": "loss relative to the position baseline",
    "target_std": "spread of the targets",
    "prediction_std": "spread of the predictions",
    "position_share": "fraction of target variance explained by position",
    "effective_rank": "effective rank",
    "content_step": "the step at which image content was last measured",
    "content_linear": "image content predicted from features by a linear map",
    "content_linear_error": "the standard error of its change since then",
    "content_linear_at_start": "the same before training",
    "content_neighbours": "image content predicted from features by nearest neighbours",
    "content_neighbours_error": "the standard error of its change since then",
    "content_neighbours_at_start": "the same before training",
    "own_similarity": "cosine similarity of prediction and own target",
    "cross_sample_gap": "cross-sample gap",
    "teacher_distance": "distance between teacher and student",
    "momentum": "EMA momentum",
    "lr": "learning rate",
    "weight_decay": "weight decay",
    "grad_norm": "gradient norm",
    "skipped": "skipped steps",
    "images_per_second": "images per second",
    "data_wait": "fraction of time spent waiting for data",
    "memory_gb": "memory (GB)",
    "verdict": "verdict",
}
CONTROLS = {"random_init": "random init", "raw_pixels": "raw pixels"}
TONES = {"healthy": "good", "watch": "careful", "not learned yet": "careful"}  # all other verdicts are "bad"
STATUS = {
    "running": "The run was still in progress when this report was written.",
    "finished": "The run has finished.",
    "stopped": "The run was stopped before its last step.",
    "failed": "The run failed.",
}


def write_report(run: Path) -> Path:
    """Write ``run/report.html`` from the files in ``run`` and return its path.

    The file is replaced atomically: an older report stays until the new one is complete.
    Raises ``UserError`` if ``run`` has no readable ``run.json`` or the report cannot be written.
    """
    run = Path(run)
    page = _render(page_context(run.resolve().name, read_record(run)))
    target = run / "report.html"
    try:
        # "replace": a file name that is not valid text must not prevent the report.
        write_atomically(target, lambda beside: beside.write_text(page, encoding="utf-8", errors="replace"))
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error.strerror}): check disk space and permissions, then try again"
        ) from error
    return target


def page_context(name: str, record: Record) -> dict[str, Any]:
    """Turn a record into the values that the template places."""
    run = record.run
    metrics, levels = _with_levels(record.metrics)
    columns = _columns(metrics)
    changes = _verdict_changes(run)
    marks = [(change["number"], change["at"]) for change in changes if change["at"] is not None]
    results = _results(record.evaluation)
    verdict = _mapping(run.get("verdict"))
    return {
        "name": name,
        "notes": record.notes,
        "status": STATUS.get(str(run.get("status")), "The status of the run is unknown."),
        "progress": _progress(run),
        "verdict": verdict.get("verdict"),
        "tone": TONES.get(str(verdict.get("verdict")), "bad") if verdict.get("verdict") else "none",
        "harm": record.evaluation.get("harm"),
        "evidence": verdict.get("evidence"),
        "next_step": verdict.get("next_step"),
        "advice": _advice(run, evaluated=bool(results)),
        "changes": changes,
        "curves": [(curve, curve_svg(curve, columns, marks)) for curve in (*CURVES, *level_curves(levels))],
        "steps_logged": len(record.metrics),
        "measures": _measures(metrics),
        "results": results,
        "audit": record.audit,
        "audit_rows": _audit_rows(record.audit),
        "controls": list(results[0]["controls"]) if results else [],
        "results_svg": results_svg([(row["label"], row["dots"]) for row in results]) if results else None,
        "evaluation": record.evaluation,
        "evaluated_before": record.evaluation.get("step", run.get("steps")) != run.get("steps"),
        "steps": run.get("steps"),
        "masks": record.masks,
        "masks_svg": _own_svg(record.masks.get("svg")),
        "command": run.get("repeat") or run.get("command"),
        "facts": _facts(run),
        "config": record.config,
    }


def _audit_rows(audit: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the findings of the audit other than passes, worst first."""
    order = ("fail", "warn", "info", "not-checked")
    found = [row for row in _records(audit.get("findings")) if row.get("status") in order]
    return sorted(found, key=lambda row: order.index(str(row["status"])))


def _render(context: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("hjepa", "report"),
        autoescape=True,  # always: jinja2 would otherwise go by the template's last suffix
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    return environment.get_template("page.html.jinja").render(context)


def shown(value: object, between: str = ", ") -> str:
    """Format a value for people: four digits, thousands separators, a dash for missing values."""
    if value is None or value == "" or isinstance(value, Undefined):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return between.join(shown(part) for part in value) or DASH
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(part)}" for key, part in value.items()) or DASH
    return str(value)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _records(value: object) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _number(value: object) -> float | None:
    """Return a finite number that can be drawn, else ``None``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        return None
    return float(value)


def _with_levels(metrics: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Return the lines with each level's measures as separate keys (``level 0 loss``), and the number of levels."""
    lines, levels = [], 0
    for row in metrics:
        each = _records(row.get("levels"))
        own = {f"level {number} {key}": value for number, level in enumerate(each) for key, value in level.items()}
        lines.append({key: value for key, value in row.items() if key != "levels"} | own)
        levels = max(levels, len(each))
    return lines, levels


def _words(key: str) -> str:
    _, number, rest = key.split(" ", 2) if re.match(r"level \d+ ", key) else ("", "", "")
    return f"level {number}: {MEASURES.get(rest, rest)}" if number else MEASURES.get(key, key)


def _columns(metrics: Sequence[Mapping[str, Any]]) -> Columns:
    """Return each measure as an array [n], NaN where it was not logged; rows without a step are ignored."""
    rows = [row for row in metrics if _number(row.get("step")) is not None]
    keys = dict.fromkeys([*MEASURES, *(key for row in rows for key in row if key.startswith("level "))])
    return {key: np.array([_or_nan(row.get(key)) for row in rows], dtype=np.float64) for key in keys}


def _or_nan(value: object) -> float:
    number = _number(value)
    return float("nan") if number is None else number


def _measures(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per logged measure: first, last, lowest and highest value."""
    rows = []
    for key in dict.fromkeys([*MEASURES, *(key for row in metrics for key in row)]):
        values = [row.get(key) for row in metrics]
        numbers = [number for value in values if (number := _number(value)) is not None]
        rows.append(
            {
                "key": key,
                "words": _words(key),
                "first": values[0] if values else None,
                "last": values[-1] if values else None,
                "lowest": min(numbers, default=None),
                "highest": max(numbers, default=None),
            }
        )
    return rows


def _verdict_changes(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the verdicts in the order they were given, numbered as on the curves."""
    history = _records(run.get("verdict_history"))
    return [{**row, "number": i, "at": _number(row.get("step"))} for i, row in enumerate(history, start=1)]


def _results(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per evaluation: its names, and the accuracy and interval of each encoder in per cent."""
    results = _records(evaluation.get("results"))
    controls = dict.fromkeys([*CONTROLS, *(name for result in results for name in _mapping(result.get("controls")))])
    rows = []
    for result in results:
        values, intervals = _mapping(result.get("controls")), _mapping(result.get("control_intervals"))
        pretrained = _dot(result.get("accuracy"), result.get("interval"))
        beside = {CONTROLS.get(name, name): _dot(values.get(name), intervals.get(name)) for name in controls}
        chance = _dot(result.get("chance"), None)
        words = [result.get(key) for key in ("protocol", "labels", "pooling", "level")]
        rows.append(
            {
                **result,
                "label": " · ".join(str(word) for word in words if word is not None),
                "pretrained": pretrained,
                "controls": beside,
                "chance": chance,
                "dots": {"pretrained": pretrained, **beside, "chance": chance},
            }
        )
    return rows


def _dot(value: object, interval: object) -> Dot:
    number = _number(value)
    ends = [_number(end) for end in interval] if isinstance(interval, list) and len(interval) == 2 else []
    known = [100 * end for end in ends if end is not None]
    return Dot(None if number is None else 100 * number, (known[0], known[1]) if len(known) == 2 else None)


def _advice(run: Mapping[str, Any], *, evaluated: bool) -> list[str]:
    """Suggest what to do next, in addition to the next step of the verdict."""
    status = run.get("status")
    verdict = _mapping(run.get("verdict"))
    advice = []
    if status == "running":
        advice.append("Let the run continue. This report shows its state at the time of writing.")
    if status in ("stopped", "failed"):
        advice.append(
            "Resume from the last checkpoint: hjepa pretrain DATA --out RUN --resume, where RUN is this folder."
        )
    if verdict.get("verdict") not in (None, "healthy") and run.get("verdict_history"):
        advice.append("Find out when the problem began: numbered lines on the curves mark every change of the verdict.")
    if not evaluated and "hjepa evaluate" not in str(verdict.get("next_step")):
        advice.append(
            "Evaluate the encoder on labelled images: "
            "hjepa evaluate RUN --train LABELLED --test LABELLED, where RUN is this folder."
        )
    if evaluated:
        advice.append(
            "Compare the evaluation with its baselines: only accuracy above random init comes from pretraining, "
            "and raw pixels show what is possible without any learning."
        )
    if status == "finished":
        advice.append("Use the encoder from Python: hjepa.load_encoder(RUN), where RUN is this folder.")
    return advice


def _progress(run: Mapping[str, Any]) -> str:
    speed = f" at {shown(run.get('images_per_second'))} images/s" if run.get("images_per_second") else ""
    return (
        f"{shown(run.get('steps'))} of {shown(run.get('total_steps'))} steps, "
        f"{shown(run.get('images'))} images in {_duration(run.get('seconds'))}{speed}."
    )


def _duration(value: object) -> str:
    seconds = _number(value)
    if seconds is None:
        return DASH
    hours, rest = divmod(round(seconds), 3600)
    parts = ((hours, "h"), (rest // 60, "min"), (rest % 60, "s"))
    largest = next((i for i, (amount, _) in enumerate(parts) if amount), 2)
    return " ".join(f"{amount} {unit}" for amount, unit in parts[largest : largest + 2])


def _facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the facts needed to understand and repeat the run, as (label, value)."""
    data, hardware, git = (_mapping(run.get(key)) for key in ("data", "hardware", "git"))
    parameters = _mapping(run.get("parameters"))
    changed = ", with uncommitted changes" if git.get("dirty") else ""
    facts = [
        ("Started", run.get("created")),
        ("Finished", run.get("finished")),
        ("Data", data.get("source")),
        ("Number of images", data.get("images")),
        ("Data fingerprint", data.get("fingerprint")),
        ("Seed", run.get("seed")),
        ("Skipped steps", run.get("skipped_steps")),
        *((f"Parameters, {str(part).replace('_', ' ')}", count) for part, count in parameters.items()),
        ("Device", hardware.get("device")),
        ("CPU", hardware.get("cpu")),
        ("Cores", hardware.get("cores")),
        ("Memory (GB)", hardware.get("memory_gb")),
        ("Precision", run.get("precision")),
        ("Attention", run.get("attention")),
        ("Versions", _mapping(run.get("versions"))),
        ("Git commit", f"{git['commit']}{changed}" if git.get("commit") else None),
    ]
    return [(words, shown(value)) for words, value in facts]


def _own_svg(svg: object) -> Markup | None:
    """Return our own mask picture, without anything before its ``<svg>``.

    It is the only text that is not escaped; the page's content security policy forbids scripts and external resources.
    """
    if not isinstance(svg, str) or "<svg" not in svg:
        return None
    return Markup(svg[svg.index("<svg") :])
