"""The laboratory: runs an experiment described in a small file, and writes one table of what came out.

    python benchmarks/quality/lab.py benchmarks/quality/experiments/small-data.yaml
    python benchmarks/quality/lab.py ... --jobs 2     # two runs at a time
    python benchmarks/quality/lab.py ... --table      # only write the table anew

An experiment is a question, a protocol (data, evaluation, what is held equal, threads, seeds) and variants of one
configuration. Runs and evaluations are commands of their own, in ``runs/lab/NAME``; what is finished is not done
again, what was interrupted is resumed, what failed is recorded with its message. What is finished is also kept in
``NAME.json`` beside the table, so that an experiment can go on elsewhere, without the runs. Runs made under another
protocol are refused: numbers of two protocols never stand in one table.
"""

import argparse
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

import yaml
from scipy.stats import t as student_t

from hjepa.config import read_recipe

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "quality"
MEASURES = (  # what a verdict rests on, kept over time
    "step", "verdict", "relative_loss", "effective_rank", "cross_sample_gap", "position_share", "target_std",
    "content_step", "content_linear", "content_linear_error", "content_linear_at_start",
    "content_neighbours", "content_neighbours_error", "content_neighbours_at_start",
)  # fmt: skip
MOMENTS = 12  # of a run, evenly spread
ROUNDS = 3  # of the measurement that turns minutes into steps; variants take turns, the median counts


@dataclass(frozen=True)
class Experiment:
    """A file of benchmarks/quality/experiments; README.md there explains the fields."""

    name: str
    question: str
    data: str
    evaluate: dict[str, Any] | list[dict[str, Any]]  # one evaluation, or several
    equal: dict[str, float]
    threads: int
    seeds: list[int]
    base: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    conclusion: str = ""

    @classmethod
    def load(cls, path: Path) -> "Experiment":
        """Read an experiment; a field it does not know is an error of dataclass."""
        return cls(name=path.stem, **yaml.safe_load(path.read_text()))

    @property
    def protocol(self) -> dict[str, Any]:
        """Return what runs must share to be compared."""
        recipe = self.base.get("recipe")
        return {
            "recipe": recipe and read_recipe(recipe).values,
            "data": self.data,
            "evaluate": self.evaluate,
            "equal": self.equal,
            "threads": self.threads,
            "processor": _processor() if "minutes" in self.equal else "any",
        }

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Return the evaluations of each run."""
        return self.evaluate if isinstance(self.evaluate, list) else [self.evaluate]

    def settings(self, variant: str) -> dict[str, Any]:
        """Return the dotted settings of a variant, its recipe included."""
        return {**self.base, **self.variants[variant]}

    def levels(self, variant: str) -> list[str]:
        """Return the levels a variant is evaluated on: the last block; with ``levels: each`` also its levels."""
        settings, recipe = self.settings(variant), self.base.get("recipe")
        of_recipe = read_recipe(recipe).values.get("model", {}).get("levels") if recipe else None
        own = settings.get("model.levels", of_recipe) or []
        own = own if isinstance(own, list) else [own]
        several = self.evaluations[0].get("levels") == "each" and len(own) > 1
        return ["last", *map(str, range(len(own))), "all"] if several else ["last"]


class Lab:
    """Where an experiment's runs are, and how they get there."""

    def __init__(self, experiment: Experiment, runs: Path, results: Path = RESULTS) -> None:
        self.experiment, self.folder, self.results = experiment, runs / experiment.name, results
        self.folder.mkdir(parents=True, exist_ok=True)
        self._refuse_other_protocol()
        self._writing = Lock()
        self._stopped = Event()
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, jobs: int = 1) -> None:
        """Do what is not done yet, seed by seed, ``jobs`` runs at a time, and write the table after each run."""
        todo = [(v, seed) for seed in self.experiment.seeds for v in self.experiment.variants]
        todo = [one for one in todo if self._kept(*one) is None]
        untrained = {
            variant for variant, seed in todo if self._changed(variant, seed) or not self._trained(variant, seed)
        }
        steps = {variant: self._steps(variant) for variant in self.experiment.variants if variant in untrained}
        with ThreadPoolExecutor(jobs) as pool:
            try:
                for done in [pool.submit(self._one, variant, seed, steps.get(variant, 0)) for variant, seed in todo]:
                    done.result()
            finally:  # an interrupt or a refused command: those that wait do not start any more
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(self._running):
                    process.terminate()  # it saves, and the same command goes on

    def _one(self, variant: str, seed: int, steps: int) -> None:
        if self._stopped.is_set():
            return
        self._set_aside_if_changed(variant, seed)
        if self._pretrain(variant, seed, steps):
            for level in self.experiment.levels(variant):
                for asked in self.experiment.evaluations:
                    self._evaluate(variant, seed, level, asked)
        with self._writing:
            self.keep()
            write_table(self)

    def keep(self) -> None:
        """Write what is finished into NAME.json: what the table needs, and which machine and code it is from."""
        runs = [
            {"variant": variant, "seed": seed, "settings": self.experiment.settings(variant), **found}
            for variant in self.experiment.variants
            for seed in self.experiment.seeds
            if (found := self.result(variant, seed)) and "record" in found
        ]
        if runs:
            self.results.mkdir(parents=True, exist_ok=True)
            self._book.write_text(json.dumps({"protocol": self.experiment.protocol, "runs": runs}, indent=1) + "\n")

    @property
    def _book(self) -> Path:
        return self.results / f"{self.experiment.name}.json"

    def _kept(self, variant: str, seed: int) -> dict[str, Any] | None:
        """Return a run of NAME.json, if it was made with what the variant says now."""
        asked = [variant, seed, _as_json(self.experiment.settings(variant))]
        for run in (_read(self._book) or {"runs": []})["runs"]:
            if [run["variant"], run["seed"], run["settings"]] == asked:
                return {"record": run["record"], "results": run["results"]}
        return None

    def _trained(self, variant: str, seed: int) -> bool:
        record = _read(self.run_folder(variant, seed) / "run.json")
        return bool(record) and record["status"] == "finished"

    def _changed(self, variant: str, seed: int) -> bool:
        """Return whether a run was made with other settings than the variant's of now."""
        made_with = _read(Path(f"{self.run_folder(variant, seed)}.settings.json"))
        return made_with not in (None, _as_json(self.experiment.settings(variant)))

    def _set_aside_if_changed(self, variant: str, seed: int) -> None:
        folder = self.run_folder(variant, seed)
        if self._changed(variant, seed):
            for path in (folder, *self._failures(variant, seed)):
                if path.exists():
                    path.rename(path.with_name(f"{path.name}.{time.time_ns()}.earlier"))
        Path(f"{folder}.settings.json").write_text(json.dumps(self.experiment.settings(variant), indent=1))

    def _failures(self, variant: str, seed: int) -> list[Path]:
        folder = self.run_folder(variant, seed)
        return sorted(folder.parent.glob(f"{folder.name}.*.failed.json"))

    def run_folder(self, variant: str, seed: int) -> Path:
        """Return the run of a variant and a seed."""
        return self.folder / f"{re.sub('[^a-z0-9]+', '-', variant.lower()).strip('-')}-seed{seed}"

    def result(self, variant: str, seed: int) -> dict[str, Any] | None:
        """Return what is known of a run: its record, its evaluations, or how it failed; None before it ran."""
        if self._changed(variant, seed):
            return self._kept(variant, seed)
        folder = self.run_folder(variant, seed)
        record = _read(folder / "run.json")
        evaluations = [
            _read(folder / self._kept_as(level, asked))
            for level in self.experiment.levels(variant)
            for asked in self.experiment.evaluations
        ]
        if not record or record["status"] != "finished" or not all(evaluations):
            failures = [{"failure": _read(path)["message"]} for path in self._failures(variant, seed)]
            return self._kept(variant, seed) or next(iter(failures), None)
        about = {
            name: record[name] for name in ("steps", "images", "seconds", "verdict", "precision", "versions", "git")
        }
        about["cpu"] = record["hardware"]["cpu"]
        about["measures"] = _measures(folder / "metrics.jsonl")
        return {"record": about, "results": [row for found in evaluations for row in found["results"]]}

    # ---- one run ----------------------------------------------------------------------------------

    def _pretrain(self, variant: str, seed: int, steps: int) -> bool:
        """Train a variant unless it is finished; False if it failed, now or before."""
        folder, record = self.run_folder(variant, seed), _read(self.run_folder(variant, seed) / "run.json")
        if self._trained(variant, seed):
            return True
        if Path(f"{folder}.pretrain.failed.json").exists():
            return False
        options = {**self.experiment.settings(variant), "train.seed": seed, "train.length": steps}
        resume = ["--resume"] if record else _as_options(options)
        command = ["pretrain", self.experiment.data, "--out", str(folder), *resume]
        return self._hjepa(command, folder, "pretrain")

    def _kept_as(self, level: str, asked: dict[str, Any]) -> str:
        number = self.experiment.evaluations.index(asked)
        return f"evaluation-{level}-{number}.json" if number else f"evaluation-{level}.json"

    def _evaluate(self, variant: str, seed: int, level: str, asked: dict[str, Any]) -> None:
        folder = self.run_folder(variant, seed)
        kept = folder / self._kept_as(level, asked)
        if kept.exists():
            return
        limits = [f"--{k.replace('_', '-')}={asked[k]}" for k in ("max_train", "max_test") if k in asked]
        names = [f"--protocols={','.join(asked['protocols'])}", f"--pooling={','.join(asked['poolings'])}"]
        sets = [f"--train={asked['train']}", f"--test={asked['test']}", f"--level={level}"]
        if self._hjepa(["evaluate", str(folder), *sets, *names, *limits], folder, f"evaluate-{level}"):
            (folder / "evaluation.json").rename(kept)

    def _steps(self, variant: str) -> int:
        """Return a variant's own steps, or those that equal the others' in what the experiment holds equal."""
        if own := self.experiment.settings(variant).get("train.length"):
            return int(own)
        if "steps" in self.experiment.equal:
            return int(self.experiment.equal["steps"])
        if "images" in self.experiment.equal:
            batch = self._plan(variant)["config"]["optim"]["batch_size"]
            return int(self.experiment.equal["images"] // batch)
        return int(60 * self.experiment.equal["minutes"] / self._seconds_per_step()[variant])

    def _seconds_per_step(self) -> dict[str, float]:
        """Measure all variants in turns, once: later parts of the experiment use the same numbers."""
        kept = self.folder / "seconds_per_step.json"
        settings = {variant: _as_json(self.experiment.settings(variant)) for variant in self.experiment.variants}
        measured: dict[str, list[float]] = {variant: [] for variant in settings}
        for one in _read(kept) or []:
            if settings.get(one["variant"]) == one["settings"]:
                measured[one["variant"]] = one["seconds"]
        for _ in range(ROUNDS):
            for variant, seconds in measured.items():
                if len(seconds) < ROUNDS:
                    seconds.append(self._plan(variant)["plan"]["seconds_per_step"])
        rows = [{"variant": v, "settings": settings[v], "seconds": seconds} for v, seconds in measured.items()]
        kept.write_text(json.dumps(rows))
        return {variant: statistics.median(seconds) for variant, seconds in measured.items()}

    def _plan(self, variant: str) -> dict[str, Any]:
        settings = {**self.experiment.settings(variant), "train.length": 1000}
        command = ["pretrain", self.experiment.data, "--plan", "--json", *_as_options(settings)]
        done = subprocess.run(_hjepa(command), env=self._environment(), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{variant}: {done.stderr.strip()}")
        plan: dict[str, Any] = json.loads(done.stdout)
        return plan

    def _hjepa(self, command: list[str], folder: Path, what: str) -> bool:
        """Run a command with its output kept beside the run; a failure is recorded, an interrupt is not one."""
        print("$ hjepa", " ".join(command), flush=True)
        with Path(f"{folder}.log").open("a") as log:
            process = subprocess.Popen(_hjepa(command), env=self._environment(), stdout=log, stderr=log)
            self._running.add(process)
            code = process.wait()
            self._running.discard(process)
        said = Path(f"{folder}.log").read_text().strip().splitlines()[-1:]
        elsewhere = code == 2 and "another process is training this run" in " ".join(said)
        if code in (130, 143) or code < 0 or elsewhere:
            self._stopped.set()  # here, not where it is caught: this thread would have taken up the next run by then
            why = said[0] if elsewhere else "stopped; the same command goes on"
            raise SystemExit(f"{why}. Log: {folder}.log")
        failure = Path(f"{folder}.{what}.failed.json")
        if code:
            failure.write_text(json.dumps({"command": command, "message": " ".join(said)}))
        else:
            failure.unlink(missing_ok=True)
        return code == 0

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "OMP_NUM_THREADS": str(self.experiment.threads)}

    def _refuse_other_protocol(self) -> None:
        kept = self.folder / "protocol.json"
        protocol = _as_json(self.experiment.protocol)
        if kept.exists() and _read(kept) != protocol:
            raise SystemExit(f"{self.folder} holds runs of another protocol ({kept}): use another --runs, or remove it")
        if self._book.exists() and _read(self._book)["protocol"] != protocol:
            raise SystemExit(f"{self._book} holds results of another protocol: rename the experiment, or remove it")
        page = self._book.with_suffix(".md")
        if page.exists() and not self._book.exists() and "\n| raw pixels" in page.read_text():
            raise SystemExit(f"{page} has rows and no {self._book.name}: they would be lost; rename the experiment")
        kept.write_text(json.dumps(protocol, indent=1))


# ---- the table ----------------------------------------------------------------------------------------


def write_table(lab: Lab) -> Path:
    """Write the experiment's table from what is on disk; one that has rows is not replaced by an empty one."""
    e, path = lab.experiment, lab.results / f"{lab.experiment.name}.md"
    found = {variant: {seed: lab.result(variant, seed) for seed in e.seeds} for variant in e.variants}
    done = {v: {s: r for s, r in each.items() if r and "record" in r} for v, each in found.items()}
    found_rows = [row for each in done.values() for r in each.values() for row in r["results"]]
    several = len({row["n_train"] for row in found_rows}) > 1
    for row in found_rows:
        row["column"] = _column(row) + (f", {row['n_train']:,} labelled" if several else "")
    columns = sorted({row["column"] for row in found_rows})
    lines = [f"# {e.question}", "", f"`python benchmarks/quality/lab.py benchmarks/quality/experiments/{e.name}.yaml`"]
    lines += ["", _protocol_in_words(e), ""]
    if columns:
        lines += [
            "| | steps | verdict | rank | " + " | ".join(columns) + " |",
            "|---|---|---|---|" + "---|" * len(columns),
        ]
        for variant, each in done.items():
            lines.append(_row(variant, list(each.values()), columns))
        lines += _controls(done, columns)
    if precisions := sorted({r["record"]["precision"] for each in done.values() for r in each.values()}):
        lines += ["", f"Computed in {' and '.join(precisions)}."]
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
    equal = ", ".join(f"{value:g} {what} of training" for what, value in e.equal.items()) or "nothing"
    seeds, first = ", ".join(map(str, e.seeds)), e.evaluations[0]
    fit = " or ".join(f"{asked.get('max_train', 'all')}" for asked in e.evaluations)
    return (
        f"{e.data}; equal: {equal}, {e.threads} thread{'s' if e.threads > 1 else ''}; seeds {seeds}; "
        f"{first['train']} ({fit} images) to fit, {first['test']} to test. "
        "Per cent, mean and 95 % interval of the mean over seeds (Student's t); of one or two seeds their mean."
    )


def _in_words(settings: dict[str, Any]) -> str:
    return ", ".join(f"`{name}={json.dumps(value)}`" for name, value in settings.items()) or "nothing"


def _measures(metrics: Path) -> list[dict[str, Any]]:
    """Return what a verdict rested on at a few moments of a run, the last one among them."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    wanted = sorted({round((len(lines) - 1) * moment / MOMENTS) for moment in range(MOMENTS + 1)}) if lines else []
    return [{name: _short(lines[number].get(name)) for name in MEASURES} for number in wanted]


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


# ---- small things -------------------------------------------------------------------------------------


def _as_options(settings: dict[str, Any]) -> list[str]:
    """Return dotted settings as the command line takes them."""
    options = []
    for name, value in settings.items():
        shown = json.dumps(value) if isinstance(value, list) else "none" if value is None else str(value)
        options += [f"--{name}", shown]
    return options


def _hjepa(command: list[str]) -> list[str]:
    return [sys.executable, "-m", "hjepa.cli", *command]


def _as_json(value: Any) -> Any:
    """Return a value as it reads after it was written."""
    return json.loads(json.dumps(value))


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def _processor() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0].split(': ')[1]}, {len(names)} cores" if names else "unknown"


def main() -> None:
    """Run the experiments named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/lab"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--table", action="store_true", help="only write the table anew")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as an interrupt: children are told, too
    for path in asked.experiments:
        lab = Lab(Experiment.load(path), asked.runs, asked.results)
        if not asked.table:
            try:
                lab.run(asked.jobs)
            except KeyboardInterrupt:
                raise SystemExit("stopped; the same command goes on") from None
        print(write_table(lab))


if __name__ == "__main__":
    main()
