"""Does the verdict tell the truth? Sets what it said of every run of the laboratory beside what labels say.

    python benchmarks/quality/verdicts.py            # writes benchmarks/results/quality/verdict-calibration.md

A run's gain is its k-NN (or linear) accuracy on averaged tokens less that of its untrained encoder, in points, the
mean over the kinds of labels. Its score is what its features know of their images more than before training, the
smaller of the two ways of reading, over what was known. Below its random init is a run of which one of these probes
is below it with 95 % intervals apart. Verdicts are today's: whether a run has learned is decided anew, from the
content that it recorded (docs/decisions/0010), and whether it is too early to speak of a positional collapse. Runs
whose content was measured in another way, or not at all, are left out and counted.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from hjepa.training.health import POSITION_FIRST, content_changes, has_learned

RESULTS = Path(__file__).resolve().parents[1] / "results" / "quality"
SCORE = "content, the smaller gain"


def gain(line: dict[str, Any], way: str) -> float:
    """Return by which share of what it knew before training a run knows more, read in one way."""
    start = line[f"content_{way}_at_start"]
    return float((line[f"content_{way}"] - start) / start)


CANDIDATES: dict[str, Callable[[dict[str, Any]], float]] = {
    SCORE: lambda line: min(gain(line, "linear"), gain(line, "neighbours")),
    "content, linear": lambda line: gain(line, "linear"),
    "content, neighbours": lambda line: gain(line, "neighbours"),
    "effective rank": lambda line: float(line["effective_rank"]),
    "cross-sample gap": lambda line: float(line["cross_sample_gap"]),
    "loss relative to the position mean, negative": lambda line: -float(line["relative_loss"]),
}


def runs(book: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the runs of an experiment that can be judged, and how many cannot."""
    found = json.loads(book.read_text())["runs"]
    known = [
        run for run in found if any(line.get("content_step") is not None for line in run["record"].get("measures", []))
    ]
    return [_judged(book.stem, run) for run in known], len(found) - len(known)


def _judged(experiment: str, run: dict[str, Any]) -> dict[str, Any]:
    rows = [row for row in run["results"] if row["pooling"] == "avg" and row["level"] == "last"]
    last = [line for line in run["record"]["measures"] if line.get("content_step") is not None][-1]
    gains = {
        protocol: statistics.mean(100 * (row["accuracy"] - row["controls"]["random_init"]) for row in of_protocol)
        for protocol in ("knn", "linear")
        if (of_protocol := [row for row in rows if row["protocol"] == protocol])
    }
    return {
        "experiment": experiment,
        "variant": run["variant"],
        "seed": run["seed"],
        "steps": run["record"]["steps"],
        "verdict": _verdict(run["record"]["verdict"]["verdict"], last["step"], _learned(last)),
        "learned": _learned(last),
        "gains": gains,
        "below": any(row["interval"][1] < row["control_intervals"]["random_init"][0] for row in rows),
        "measures": last,
    }


def _learned(line: dict[str, Any]) -> bool:
    changes = content_changes(line)
    return changes is not None and has_learned(changes)


def _verdict(recorded: str, step: int, learned: bool) -> str:
    """Return what the run is called today; only a run that is otherwise sound is judged by its content."""
    if recorded == "positional collapse" and step < POSITION_FIRST:
        return "watch"
    if recorded not in ("healthy", "not learned yet"):
        return recorded
    return "healthy" if learned else "not learned yet"


def page(judged: list[dict[str, Any]], left_out: int) -> str:
    """Return the page: correlations, what each verdict was said of, and every run."""
    lines = ["# What the verdict said, and what labels say", "", "`python benchmarks/quality/verdicts.py`", ""]
    lines += [" ".join(str(__doc__).split("\n\n")[2].split()), ""]
    lines += [f"{len(judged)} runs; {left_out} older ones are left out.", ""]
    lines += ["## Rank correlation (Spearman) with the gain", "", "| measure | k-NN | linear |", "|---|---|---|"]
    for name, measure in CANDIDATES.items():
        cells = [f"{_correlation(judged, measure, protocol):.2f}" for protocol in ("knn", "linear")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "## What each verdict was said of",
        "",
        "| verdict | runs | below random init | k-NN gain | linear gain |",
    ]
    lines.append("|---|---|---|---|---|")
    for verdict in sorted({run["verdict"] for run in judged}):
        those = [run for run in judged if run["verdict"] == verdict]
        ranges = [_range([run["gains"][p] for run in those if p in run["gains"]]) for p in ("knn", "linear")]
        lines.append(f"| {verdict} | {len(those)} | {sum(run['below'] for run in those)} | {' | '.join(ranges)} |")
    learned = [run for run in judged if run["learned"]]
    below = sum(run["below"] for run in learned)
    lines += ["", f"By their content alone, {len(learned)} runs have learned; {below} of these are below random init."]
    lines += ["", "## Every run", "", "| experiment | variant | seed | steps | verdict | k-NN gain | linear gain | "]
    lines[-1] += "content, linear | content, neighbours | rank | below random init |"
    lines.append("|" + "---|" * 11)
    for run in sorted(judged, key=lambda run: (run["experiment"], run["variant"], run["steps"], run["seed"])):
        found = [f"{run['gains'][p]:+.1f}" if p in run["gains"] else "" for p in ("knn", "linear")]
        known = [f"{100 * gain(run['measures'], way):+.0f} %" for way in ("linear", "neighbours")]
        rank = f"{run['measures']['effective_rank']:.0f}"
        head = [run["experiment"], run["variant"], str(run["seed"]), str(run["steps"]), run["verdict"]]
        lines.append(f"| {' | '.join([*head, *found, *known, rank, 'yes' if run['below'] else ''])} |")
    return "\n".join([*lines, ""])


def _correlation(judged: list[dict[str, Any]], measure: Callable[[dict[str, Any]], float], protocol: str) -> float:
    pairs = [(measure(run["measures"]), run["gains"][protocol]) for run in judged if protocol in run["gains"]]
    return float(spearmanr(*zip(*pairs, strict=True)).statistic) if len(pairs) > 2 else float("nan")


def _range(values: list[float]) -> str:
    return f"{min(values):+.1f} to {max(values):+.1f}" if values else ""


def main() -> None:
    """Read every experiment that has results, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    found = [runs(book) for book in sorted(asked.results.glob("*.json"))]
    judged = [run for some, _ in found for run in some]
    if not judged:
        raise SystemExit(f"{asked.results} has no runs with measures: run the laboratory first")
    path = asked.results / "verdict-calibration.md"
    path.write_text(page(judged, sum(count for _, count in found)))
    print(path.read_text().split("## Every run")[0])


if __name__ == "__main__":
    main()
