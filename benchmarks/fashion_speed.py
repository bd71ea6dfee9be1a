"""Speed and memory of the recipe ijepa-code-fashion beside a plain loop on the same work.

    python benchmarks/fashion_speed.py [--pairs 3] [--rounds 12] [--precision bf16]

Each runs in a process of its own, as people run them; they take turns of 10 steps, and the order alternates.
Processes differ by a few per cent among themselves, so several pairs are measured. All get the same images and
masks. Ours includes everything a user gets: loading, masks, health measures, metrics.jsonl, and how `hjepa pretrain`
sets up the process. The plain loop runs twice: as it is, and with the memory settings of `hjepa pretrain` (`tuned`).
All compute in one precision: bf16, or, where the processor has no fast bf16, float32, as `hjepa pretrain` chooses.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from plain_loop import PlainLoop

from hjepa.api import TrainingCallback
from hjepa.config import Layer, Resolved, read_recipe, resolve
from hjepa.data.sources import open_source
from hjepa.runs.folder import RunFolder
from hjepa.runs.record import new_record
from hjepa.runs.session import Session
from hjepa.setup.autoconfig import resolve_auto
from hjepa.setup.build import build, build_batches, build_sampler
from hjepa.setup.machine import autocast_dtype, choose_precision, keep_freed_memory, peak_memory_gb
from hjepa.training.trainer import train_loop

STEPS = 10
BATCH = 128
NAMES = ("hjepa", "plain", "tuned")


def resolved_recipe(source, total: int, precision: str) -> Resolved:
    settings = {"train": {"length": total, "precision": precision, "checkpoint_every": 10_000}}
    return resolve_auto(resolve([read_recipe("ijepa-code-fashion"), Layer("benchmark", settings)]), source)


def our_session(folder: Path, source, resolved: Resolved) -> Session:
    parts = build(resolved, source)
    run, record = RunFolder(folder), new_record("", parts.source, parts.trainer.model, parts.resolved.config)
    run.create(record, overwrite=False)
    return Session(parts, run, record, TrainingCallback())


def work(which: str, total: int, precision: str) -> None:
    """Read numbers of steps, take them, answer with the seconds and the peak memory (GiB) so far."""
    source = open_source("fashion-mnist")
    resolved = resolved_recipe(source, total, precision)
    with tempfile.TemporaryDirectory() as folder:
        if which == "hjepa":
            session = our_session(Path(folder) / "run", source, resolved)
            stream = session.batches(0)

            def take(steps: int) -> None:
                until = session.trainer.step + steps
                train_loop(session.trainer, stream, total_steps=lambda: until, after_step=session._after_step)
        else:
            if which == "tuned":
                keep_freed_memory()
            loop = PlainLoop(total, autocast=autocast_dtype(precision))
            sampler = build_sampler(resolved.config)
            stream = build_batches(resolved.config, source, sampler, Accelerator(cpu=True))(0)

            def take(steps: int) -> None:
                for _ in range(steps):
                    (batch,) = next(stream)
                    loop.step(*batch)

        for line in sys.stdin:
            start = time.perf_counter()
            take(int(line))
            print(time.perf_counter() - start, peak_memory_gb(torch.device("cpu")), flush=True)


class Worker:
    """One of the two loops, in its own process."""

    def __init__(self, which: str, total: int, precision: str) -> None:
        words = [sys.executable, __file__, "--worker", which, "--total", str(total), "--precision", precision]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def take(self, steps: int) -> tuple[float, float]:
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        seconds, peak = map(float, self.process.stdout.readline().split())
        return seconds, peak

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(pairs: int, rounds: int, precision: str) -> None:
    precision, why = choose_precision(precision, torch.device("cpu"))
    print(
        f"{precision} ({why}), threads {torch.get_num_threads()}, batch {BATCH}, {rounds} rounds of {STEPS} steps each"
    )
    found = [compare_once(rounds, precision) for _ in range(pairs)]
    for name in NAMES[1:]:
        ratios = [one[name] for one in found]
        shown = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"hjepa / {name}, {pairs} sets of new processes: median {statistics.median(ratios):.3f}  each {shown}")


def compare_once(rounds: int, precision: str) -> dict[str, float]:
    """Return ours over each plain loop: median ratios of images a second of new processes."""
    workers: dict[str, Worker] = {}
    rates: dict[str, list[float]] = {name: [] for name in NAMES}
    peaks = {}
    for name in NAMES:  # one after the other: ours chooses its attention kernel by measuring, undisturbed
        workers[name] = Worker(name, (rounds + 1) * STEPS, precision)
        workers[name].take(STEPS)  # warm up
    for number in range(rounds):
        first = number % len(NAMES)
        for name in (NAMES[first:] + NAMES[:first])[:: 1 if number % 2 else -1]:
            seconds, peaks[name] = workers[name].take(STEPS)
            rates[name].append(BATCH * STEPS / seconds)
    for worker in workers.values():
        worker.end()
    for name, values in rates.items():
        print(
            f"{name:6} images/s  median {statistics.median(values):6.1f}  rounds {[round(v) for v in values]}  "
            f"peak memory {peaks[name]:.3f} GiB, hjepa's is {peaks['hjepa'] / peaks[name]:.2f} of it",
            flush=True,
        )
    ratios = {name: [a / b for a, b in zip(rates["hjepa"], rates[name], strict=True)] for name in NAMES[1:]}
    return {name: statistics.median(values) for name, values in ratios.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--precision", choices=("auto", "bf16", "float32"), default="auto")
    parser.add_argument("--worker", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--total", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker, given.total, given.precision)
    else:
        compare(given.pairs, given.rounds, given.precision)
