"""The laboratory: runs an experiment described in a small file, and writes one table of what came out.

    python benchmarks/quality/lab.py benchmarks/quality/experiments/small-data.yaml
    python benchmarks/quality/lab.py ... --jobs 2                      # two runs at a time
    python benchmarks/quality/lab.py ... --device cuda --minutes 8     # on a card, stopped in time to go on later
    python benchmarks/quality/lab.py ... --table                       # only write the table anew

An experiment is a question, a protocol (data, evaluation, what is held equal, threads, seeds) and variants of one
configuration. Runs and evaluations are commands of their own, in ``runs/lab/NAME``; what is finished is not done
again, what was interrupted is resumed, what failed is recorded with its message. What is finished is also kept in
``NAME.json`` beside the table, so that an experiment can go on elsewhere, without the runs. Runs made under another
protocol are refused: numbers of two protocols never stand in one table, nor numbers of two devices (an experiment has
the name ``NAME-cuda`` on a card).
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock
from typing import Any

from device import find_device
from experiment import Experiment, as_json, as_options, read_json
from table import mean_and_interval, write_table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "quality"
MEASURES = (  # what a verdict rests on, kept over time
    "step", "verdict", "relative_loss", "effective_rank", "cross_sample_gap", "position_share", "target_std",
    "content_step", "content_linear", "content_linear_error", "content_linear_at_start",
    "content_neighbours", "content_neighbours_error", "content_neighbours_at_start",
)  # fmt: skip
MOMENTS = 12  # of a run, evenly spread

__all__ = ["Experiment", "Lab", "mean_and_interval", "write_table"]


class Lab:
    """Where an experiment's runs are, and how they get there."""

    def __init__(self, experiment: Experiment, runs: Path, results: Path = RESULTS, device: str = "cpu") -> None:
        self.experiment, self.results, self.device = experiment, results, find_device(device)
        self.name = experiment.name + ("-cuda" if self.device.kind == "cuda" else "")
        self.folder = runs / self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.protocol = as_json(experiment.protocol(self.device.protocol_name(by_time=experiment.by_time)))
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
            self._draw_curve(variant, seed)
            for level in self.experiment.levels(variant):
                for asked in self.experiment.evaluations:
                    folder = self.run_folder(variant, seed)
                    self._evaluate(folder, folder, self._kept_as(level, asked), level, asked)
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
            times = {"step_times": found} if (found := self._step_times()) else {}
            self._book.write_text(json.dumps({"protocol": self.protocol, **times, "runs": runs}, indent=1) + "\n")

    @property
    def _book(self) -> Path:
        return self.results / f"{self.name}.json"

    def _kept(self, variant: str, seed: int) -> dict[str, Any] | None:
        """Return a run of NAME.json, if it was made with what the variant says now."""
        asked = [variant, seed, as_json(self.experiment.settings(variant))]
        for run in (read_json(self._book) or {"runs": []})["runs"]:
            if [run["variant"], run["seed"], run["settings"]] == asked:
                return {name: run[name] for name in ("record", "results", "curve") if name in run}
        return None

    def _trained(self, variant: str, seed: int) -> bool:
        record = read_json(self.run_folder(variant, seed) / "run.json")
        return bool(record) and record["status"] == "finished"

    def _changed(self, variant: str, seed: int) -> bool:
        """Return whether a run was made with other settings than the variant's of now."""
        made_with = read_json(Path(f"{self.run_folder(variant, seed)}.settings.json"))
        return made_with not in (None, as_json(self.experiment.settings(variant)))

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
        record = read_json(folder / "run.json")
        evaluations = [
            read_json(folder / self._kept_as(level, asked))
            for level in self.experiment.levels(variant)
            for asked in self.experiment.evaluations
        ]
        curve = [(step, read_json(folder / f"curve-{step}.json")) for step in self._curve_steps(record)]
        if not record or record["status"] != "finished" or not all(evaluations) or not all(at for _, at in curve):
            failures = [{"failure": read_json(path)["message"]} for path in self._failures(variant, seed)]
            return self._kept(variant, seed) or next(iter(failures), None)
        about = {
            name: record[name] for name in ("steps", "images", "seconds", "verdict", "precision", "versions", "git")
        }
        about["cpu"] = record["hardware"]["cpu"]
        about["device"] = self.device.name
        about["measures"] = _measures(folder / "metrics.jsonl")
        found = {"record": about, "results": [row for found in evaluations for row in found["results"]]}
        points = {"curve": [{"step": step, "results": at["results"]} for step, at in curve]} if curve else {}
        return found | points

    # ---- one run ----------------------------------------------------------------------------------

    def _pretrain(self, variant: str, seed: int, steps: int) -> bool:
        """Train a variant unless it is finished; False if it failed, now or before."""
        folder, record = self.run_folder(variant, seed), read_json(self.run_folder(variant, seed) / "run.json")
        if self._trained(variant, seed):
            return True
        if Path(f"{folder}.pretrain.failed.json").exists():
            return False
        options = {**self.experiment.settings(variant), "train.seed": seed, "train.length": steps}
        options["train.device"] = self.device.kind
        if self.experiment.curve:
            every = self.experiment.curve_every(steps)
            options |= {"train.checkpoint_every": every, "train.keep_checkpoints": self.experiment.curve["points"]}
        resume = ["--resume"] if record else as_options(options)
        command = ["pretrain", self.experiment.data, "--out", str(folder), *resume]
        return self._hjepa(command, folder, "pretrain")

    def _kept_as(self, level: str, asked: dict[str, Any]) -> str:
        number = self.experiment.evaluations.index(asked)
        return f"evaluation-{level}-{number}.json" if number else f"evaluation-{level}.json"

    def _evaluate(self, encoder: Path, folder: Path, kept_as: str, level: str, asked: dict[str, Any]) -> None:
        """Evaluate an encoder of a run and keep the result in the run's folder."""
        if (folder / kept_as).exists():
            return
        limits = [f"--{k.replace('_', '-')}={asked[k]}" for k in ("max_train", "max_test") if k in asked]
        names = [f"--protocols={','.join(asked['protocols'])}", f"--pooling={','.join(asked['poolings'])}"]
        sets = [f"--train={asked['train']}", f"--test={asked['test']}", f"--level={level}"]
        what = Path(kept_as).stem
        if self._hjepa(["evaluate", str(encoder), *sets, *names, *limits], folder, what):
            (encoder / "evaluation.json").rename(folder / kept_as)

    def _curve_steps(self, record: dict[str, Any] | None) -> list[int]:
        """Return the steps before the end at which a finished run is evaluated as well."""
        if not self.experiment.curve or not record or record["status"] != "finished":
            return []
        every = self.experiment.curve_every(record["steps"])
        return list(range(every, record["steps"], every))

    def _draw_curve(self, variant: str, seed: int) -> None:
        """Evaluate the checkpoints that were made on the way."""
        from checkpoint_encoder import write_encoder  # imports torch

        folder = self.run_folder(variant, seed)
        for step in self._curve_steps(read_json(folder / "run.json")):
            encoder = folder / f"encoder-at-{step}"
            if not (folder / f"curve-{step}.json").exists():
                write_encoder(folder / "checkpoints" / f"step-{step:08d}", encoder)
                self._evaluate(encoder, folder, f"curve-{step}.json", "last", self.experiment.curve)
                shutil.rmtree(encoder)

    # ---- how many steps -----------------------------------------------------------------------------

    def _steps(self, variant: str) -> int:
        """Return a variant's own steps, or those that equal the others' in what the experiment holds equal."""
        if own := self.experiment.settings(variant).get("train.length"):
            return int(own)
        if self.experiment.by_time:
            return self.experiment.steps_at_equal_time(variant, self._seconds_per_step())
        if "steps" in self.experiment.equal:
            return int(self.experiment.equal["steps"])
        return int(self.experiment.equal["images"] // self._batch_size(variant))

    def _seconds_per_step(self) -> dict[str, float]:
        """Measure all variants in turns, once: later parts of the experiment use the same numbers."""
        settings = {variant: as_json(self.experiment.settings(variant)) for variant in self.experiment.variants}
        known = {one["variant"]: one for one in self._step_times() if settings.get(one["variant"]) == one["settings"]}
        if len(known) < len(settings):
            known = self._time_steps(settings)
            (self.folder / "step_times.json").write_text(json.dumps(list(known.values())))
        return {variant: one["seconds"] for variant, one in known.items()}

    def _step_times(self) -> list[dict[str, Any]]:
        """Return what was measured before, here or where the experiment began."""
        here = read_json(self.folder / "step_times.json")
        return here or (read_json(self._book) or {}).get("step_times", [])

    def _time_steps(self, settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        words = [
            f"--variant={shlex.join(as_options({**one, 'train.device': self.device.kind}))}"
            for one in settings.values()
        ]
        command = [sys.executable, str(Path(__file__).with_name("step_time.py")), self.experiment.data, *words]
        print("$ step_time.py", self.experiment.data, f"({len(words)} variants in turns)", flush=True)
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"the steps could not be timed: {done.stderr.strip().splitlines()[-1]}")
        medians = [row["median"] for row in json.loads(done.stdout.splitlines()[-1])]
        return {
            variant: {"variant": variant, "settings": one, "seconds": median, "processor": self.device.name}
            for (variant, one), median in zip(settings.items(), medians, strict=True)
        }

    def _batch_size(self, variant: str) -> int:
        """Return the batch size of a variant, its recipe's if it names none."""
        settings = {**self.experiment.settings(variant), "train.length": 1, "train.device": self.device.kind}
        command = ["pretrain", self.experiment.data, "--plan", "--json", *as_options(settings)]
        done = subprocess.run(_hjepa(command), env=self._environment(), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{variant}: {done.stderr.strip()}")
        return int(json.loads(done.stdout)["config"]["optim"]["batch_size"])

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
        return {**os.environ, **self.device.environment, "OMP_NUM_THREADS": str(self.experiment.threads)}

    def _refuse_other_protocol(self) -> None:
        kept = self.folder / "protocol.json"
        if kept.exists() and read_json(kept) != self.protocol:
            raise SystemExit(f"{self.folder} holds runs of another protocol ({kept}): use another --runs, or remove it")
        if self._book.exists() and read_json(self._book)["protocol"] != self.protocol:
            raise SystemExit(f"{self._book} holds results of another protocol: rename the experiment, or remove it")
        page = self._book.with_suffix(".md")
        if page.exists() and not self._book.exists() and "\n| raw pixels" in page.read_text():
            raise SystemExit(f"{page} has rows and no {self._book.name}: they would be lost; rename the experiment")
        kept.write_text(json.dumps(self.protocol, indent=1))


def _measures(metrics: Path) -> list[dict[str, Any]]:
    """Return what a verdict rested on at a few moments of a run, the last one among them."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    wanted = sorted({round((len(lines) - 1) * moment / MOMENTS) for moment in range(MOMENTS + 1)}) if lines else []
    return [{name: _short(lines[number].get(name)) for name in MEASURES} for number in wanted]


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _hjepa(command: list[str]) -> list[str]:
    return [sys.executable, "-m", "hjepa.cli", *command]


def main() -> None:
    """Run the experiments named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/lab"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, on one CPU or one card")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a card if there is one"
    )
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long, as an interrupt does; 0: never")
    parser.add_argument("--table", action="store_true", help="only write the table anew")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as an interrupt: children are told, too
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 60 * asked.minutes)
    try:
        for path in asked.experiments:
            lab = Lab(Experiment.load(path), asked.runs, asked.results, asked.device)
            if not asked.table:
                lab.run(asked.jobs)
            print(write_table(lab))
    except KeyboardInterrupt:
        raise SystemExit("stopped; the same command goes on") from None


if __name__ == "__main__":
    main()
