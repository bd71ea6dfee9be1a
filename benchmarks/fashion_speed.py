"""Speed and memory of the recipe ijepa-code-fashion beside a plain loop on the same work.

Usage:  python benchmarks/fashion_speed.py            (both, in turn, in one process; then memory of each)

Both get the same images and masks. Ours includes everything a user gets: loading, cropping, masks, health
measures, metrics.jsonl. A round is 25 steps of one, then 25 of the other; the order alternates.
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

from hjepa.api import Silent
from hjepa.config import Layer, read_recipe, resolve
from hjepa.data.sources import open_source
from hjepa.training.machine import peak_memory_gb
from hjepa.training.run_folder import RunFolder
from hjepa.training.session import Batches, Session, build_model, build_trainer, complete, new_record
from hjepa.training.trainer import fit

STEPS = 25


def our_session(folder: Path, source, total: int) -> Session:
    settings = {"train": {"steps": total, "precision": "bf16", "checkpoint_every": 10_000}}
    resolved = complete(resolve([read_recipe("ijepa-code-fashion"), Layer("benchmark", settings)]), source)
    accelerator = Accelerator(cpu=True)
    model = build_model(resolved.config)
    run, record = RunFolder(folder), new_record("", source, model, resolved.config)
    run.create(record, overwrite=False)
    trainer = build_trainer(resolved.config, model, accelerator)
    batches = Batches(resolved.config, source, accelerator)
    return Session(resolved, source, trainer, batches, run, record, Silent())


def ours(session: Session, stream, until: int) -> float:
    start = time.perf_counter()
    fit(session.trainer, stream, total_steps=until, after_step=session._after_step)
    return time.perf_counter() - start


def plain(loop: PlainLoop, stream, steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        (batch,) = next(stream)
        loop.step(*batch)
    return time.perf_counter() - start


def compare(rounds: int) -> None:
    source, total = open_source("fashion-mnist"), rounds * STEPS + STEPS
    with tempfile.TemporaryDirectory() as folder:
        session = our_session(Path(folder) / "run", source, total)
        loop = PlainLoop(total)
        our_stream, plain_stream = session.batches(0), session.batches(0)
        ours(session, our_stream, 5), plain(loop, plain_stream, 5)  # warm up
        rates: dict[str, list[float]] = {"hjepa": [], "plain": []}
        for number in range(rounds):
            for name in ("hjepa", "plain") if number % 2 else ("plain", "hjepa"):
                if name == "hjepa":
                    seconds = ours(session, our_stream, session.trainer.step + STEPS)
                else:
                    seconds = plain(loop, plain_stream, STEPS)
                rates[name].append(128 * STEPS / seconds)
    ratios = [a / b for a, b in zip(rates["hjepa"], rates["plain"], strict=True)]
    print(f"threads {torch.get_num_threads()}, attention {session.config.train.attention}, bf16, batch 128")
    for name, values in rates.items():
        print(f"{name:6} images/s  median {statistics.median(values):6.1f}  rounds {[round(v) for v in values]}")
    print(f"ratio hjepa / plain  median {statistics.median(ratios):.3f}  from {min(ratios):.3f} to {max(ratios):.3f}")


def memory(which: str, steps: int) -> None:
    source = open_source("fashion-mnist")
    with tempfile.TemporaryDirectory() as folder:
        session = our_session(Path(folder) / "run", source, steps)
        stream = session.batches(0)
        if which == "hjepa":
            ours(session, stream, steps)
        else:
            del session.trainer
            plain(PlainLoop(steps), stream, steps)
    print(f"{which:6} peak memory {peak_memory_gb(torch.device('cpu')):.3f} GiB after {steps} steps")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--memory", choices=["hjepa", "plain"])
    parser.add_argument("--memory-steps", type=int, default=60)
    given = parser.parse_args()
    if given.memory:
        memory(given.memory, given.memory_steps)
    else:
        compare(given.rounds)
        for which in ("hjepa", "plain"):
            words = [sys.executable, __file__, "--memory", which, "--memory-steps", str(given.memory_steps)]
            print(subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip())
