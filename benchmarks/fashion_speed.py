"""Speed and memory of the recipe ijepa-code-fashion beside a plain loop on the same work.

    python benchmarks/fashion_speed.py [--pairs 3] [--rounds 4]

Each runs in a process of its own, as people run them; the two take turns of 25 steps, and the order alternates.
Processes differ by a few per cent among themselves, so several pairs are measured. Both get the same images and
masks. Ours includes everything a user gets: loading, masks, health measures, metrics.jsonl, and how `hjepa pretrain`
sets up the process.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from plain_loop import PlainLoop

from hjepa.api import Silent
from hjepa.config import Layer, read_recipe, resolve
from hjepa.data.sources import open_source
from hjepa.training.machine import peak_memory_gb
from hjepa.training.run_folder import RunFolder
from hjepa.training.session import (
    Batches,
    Session,
    build_model,
    build_trainer,
    complete,
    new_record,
    start_accelerator,
)
from hjepa.training.trainer import fit

STEPS = 25
BATCH = 128
NAMES = ("hjepa", "plain")


def our_session(folder: Path, source, total: int) -> Session:
    settings = {"train": {"steps": total, "precision": "bf16", "checkpoint_every": 10_000}}
    resolved = complete(resolve([read_recipe("ijepa-code-fashion"), Layer("benchmark", settings)]), source)
    accelerator = start_accelerator(resolved.config)
    model = build_model(resolved.config)
    run, record = RunFolder(folder), new_record("", source, model, resolved.config)
    run.create(record, overwrite=False)
    trainer = build_trainer(resolved.config, model, accelerator)
    batches = Batches(resolved.config, source, accelerator)
    return Session(resolved, source, trainer, batches, run, record, Silent())


def work(which: str, total: int) -> None:
    """Read numbers of steps, take them, answer with the seconds and the peak memory (GiB) so far."""
    source = open_source("fashion-mnist")
    with tempfile.TemporaryDirectory() as folder:
        session = our_session(Path(folder) / "run", source, total)
        stream = session.batches(0)
        loop = PlainLoop(total) if which == "plain" else None
        for line in sys.stdin:
            start = time.perf_counter()
            if loop is None:
                until = session.trainer.step + int(line)
                fit(session.trainer, stream, total_steps=until, after_step=session._after_step)
            else:
                for _ in range(int(line)):
                    (batch,) = next(stream)
                    loop.step(*batch)
            print(time.perf_counter() - start, peak_memory_gb(torch.device("cpu")), flush=True)


class Worker:
    """One of the two loops, in its own process."""

    def __init__(self, which: str, total: int) -> None:
        words = [sys.executable, __file__, "--worker", which, "--total", str(total)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def take(self, steps: int) -> tuple[float, float]:
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        seconds, peak = map(float, self.process.stdout.readline().split())
        return seconds, peak

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(pairs: int, rounds: int) -> None:
    print(f"threads {torch.get_num_threads()}, bf16, batch {BATCH}, {rounds} rounds of {STEPS} steps each, in turn")
    medians = [compare_pair(rounds) for _ in range(pairs)]
    shown = ", ".join(f"{ratio:.3f}" for ratio in medians)
    print(f"ratio hjepa / plain, {pairs} pairs of new processes: median {statistics.median(medians):.3f}  each {shown}")


def compare_pair(rounds: int) -> float:
    """Return the median ratio of images a second of two new processes."""
    workers: dict[str, Worker] = {}
    rates: dict[str, list[float]] = {name: [] for name in NAMES}
    peaks = {}
    for name in NAMES:  # one after the other: ours chooses its attention kernel by measuring, undisturbed
        workers[name] = Worker(name, (rounds + 1) * STEPS)
        workers[name].take(5)  # warm up
    for number in range(rounds):
        for name in NAMES[:: 1 if number % 2 else -1]:
            seconds, peaks[name] = workers[name].take(STEPS)
            rates[name].append(BATCH * STEPS / seconds)
    for worker in workers.values():
        worker.end()
    ratios = [a / b for a, b in zip(rates["hjepa"], rates["plain"], strict=True)]
    for name, values in rates.items():
        print(f"{name:6} images/s  median {statistics.median(values):6.1f}  rounds {[round(v) for v in values]}")
    print(
        f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), "
        f"peak memory {peaks['hjepa']:.3f} / {peaks['plain']:.3f} GiB = {peaks['hjepa'] / peaks['plain']:.2f}",
        flush=True,
    )
    return statistics.median(ratios)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--worker", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--total", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker, given.total)
    else:
        compare(given.pairs, given.rounds)
