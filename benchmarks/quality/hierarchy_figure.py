"""Draw accuracy against images seen from experiments of the laboratory, and write the table of their ends.

    python benchmarks/quality/hierarchy_figure.py            # docs/images/hierarchy-*.svg, docs/does-hierarchy-help.md

One line per variant: the mean over seeds, with a band over seeds (their 95 % interval with three or more, their range
with two). The points are the ends of the runs and what the experiment's ``curve`` measured on the way. The table
replaces what stands between the two marks of the page; nothing else on it is changed. Experiments that have no results
yet are left out and named.
"""

import argparse
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import matplotlib
from scipy.stats import t as student_t
from table import mean_and_interval

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "quality"
PAGE = ROOT / "docs" / "does-hierarchy-help.md"
EXPERIMENTS = ("hierarchy-photographs", "hierarchy-photographs-cuda", "hierarchy-scenes", "hierarchy-scenes-cuda")
BEGIN, END = "<!-- measured: written by hierarchy_figure.py -->", "<!-- end of measured -->"


def points(run: dict[str, Any], protocol: str, pooling: str, labels: str) -> dict[int, float]:
    """Return images seen -> accuracy of a run's last block, on the way and at its end."""
    batch = run["record"]["images"] / run["record"]["steps"]
    measured = [*run.get("curve", []), {"step": run["record"]["steps"], "results": run["results"]}]
    return {
        round(at["step"] * batch): row["accuracy"]
        for at in measured
        for row in at["results"]
        if (row["protocol"], row["pooling"], row["labels"], row["level"]) == (protocol, pooling, labels, "last")
    }


def band(values: list[float]) -> tuple[float, float]:
    """Return the band over seeds: the 95 % interval of the mean, or the range of fewer than three."""
    if len(values) < 3:
        return min(values), max(values)
    half = student_t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values) - half, statistics.mean(values) + half


def draw(book: dict[str, Any], labels: str, out: Path) -> None:
    """Draw k-NN accuracy of averaged tokens against images seen, one line per variant."""
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "hjepa"  # the same figure is the same file
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for number, variant in enumerate(dict.fromkeys(run["variant"] for run in book["runs"])):
        runs = [run for run in book["runs"] if run["variant"] == variant]
        # The n-th point of each seed: runs of equal time that were timed twice differ by a few images.
        by_seed = [sorted(points(run, "knn", "avg", labels).items()) for run in runs]
        aligned = list(zip(*by_seed, strict=False))  # of as many points as all seeds have
        at = [statistics.mean(images for images, _ in each) for each in aligned]
        values = [[100 * accuracy for _, accuracy in each] for each in aligned]
        low, high = zip(*(band(each) for each in values), strict=True)
        axes.plot(at, [statistics.mean(each) for each in values], marker="o", color=f"C{number}", label=variant)
        axes.fill_between(at, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
    rows = [row for run in book["runs"] for row in run["results"] if row["labels"] == labels]
    of_knn = [row["controls"] for row in rows if (row["protocol"], row["pooling"]) == ("knn", "avg")]
    for name, style in (("random_init", "--"), ("raw_pixels", ":")):
        level = 100 * statistics.mean(control[name] for control in of_knn)
        axes.axhline(level, color="grey", linestyle=style, linewidth=1, label=name.replace("_", " "))
    axes.set_xlabel("images seen")
    axes.set_ylabel(f"k-NN accuracy, {labels}, per cent" if labels != "label" else "k-NN accuracy, per cent")
    axes.legend(fontsize="small")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


def ends(book: dict[str, Any]) -> list[str]:
    """Return the table of the runs' ends: last block, averaged tokens, every probe and factor."""
    rows = [row for run in book["runs"] for row in run["results"]]
    columns = sorted({(r["labels"], r["protocol"]) for r in rows if r["level"] == "last" and r["pooling"] == "avg"})
    names = [protocol if labels == "label" else f"{labels}, {protocol}" for labels, protocol in columns]
    lines = [f"| | seeds | steps | {' | '.join(names)} |", "|---|---|---|" + "---|" * len(columns)]
    for variant in dict.fromkeys(run["variant"] for run in book["runs"]):
        runs = [run for run in book["runs"] if run["variant"] == variant]
        cells = [mean_and_interval(_values(runs, labels, protocol, "accuracy")) for labels, protocol in columns]
        lines.append(f"| {variant} | {len(runs)} | {runs[0]['record']['steps']:,} | {' | '.join(cells)} |")
    for name in ("random_init", "raw_pixels"):
        cells = [mean_and_interval(_values(book["runs"][:1], *column, name)) for column in columns]
        lines.append(f"| *{name.replace('_', ' ')}* | | | {' | '.join(cells)} |")
    return lines


def _values(runs: list[dict[str, Any]], labels: str, protocol: str, what: str) -> list[float]:
    asked = (labels, protocol, "avg", "last")
    return [
        row["accuracy"] if what == "accuracy" else row["controls"][what]
        for run in runs
        for row in run["results"]
        if (row["labels"], row["protocol"], row["pooling"], row["level"]) == asked
    ]


def section(name: str, book: dict[str, Any], images: Path) -> list[str]:
    """Draw the figures of an experiment and return its part of the page."""
    factors = sorted({row["labels"] for run in book["runs"] for row in run["results"]})
    devices = sorted({run["record"].get("device", run["record"]["cpu"]) for run in book["runs"]})
    lines = [f"### {name}", "", f"[Protocol and all columns](../benchmarks/results/quality/{name}.md); "]
    lines[-1] += f"computed on {' and '.join(devices)}. Last block, averaged tokens, per cent."
    for labels in factors:
        out = images / (f"{name}.svg" if labels == "label" else f"{name}-{labels}.svg")
        draw(book, labels, out)
        what = "" if labels == "label" else f" of {labels}"
        lines += ["", f"![k-NN accuracy{what} against images seen, a line per variant](images/{out.name})"]
    return [*lines, "", *ends(book), ""]


def main() -> None:
    """Write the figures and the measured part of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    asked = parser.parse_args()
    books = {name: asked.results / f"{name}.json" for name in EXPERIMENTS}
    lines = []
    for name, path in books.items():
        if path.is_file():
            lines += section(name, json.loads(path.read_text()), asked.page.parent / "images")
    missing = [name for name in EXPERIMENTS if not books[name].is_file() and not name.endswith("-cuda")]
    lines += [f"Not run yet: {', '.join(missing)}."] if missing else []
    text = asked.page.read_text()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{asked.page} has no place for the table: {BEGIN} ... {END}")
    body = "\n".join(lines).rstrip()
    written = re.sub(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: f"{BEGIN}\n\n{body}\n\n{END}", text, flags=re.DOTALL
    )
    asked.page.write_text(written)
    print(f"{asked.page}: {len(books) - len([1 for p in books.values() if not p.is_file()])} experiments")


if __name__ == "__main__":
    main()
