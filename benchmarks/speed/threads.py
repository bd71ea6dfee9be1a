"""Two threads beside a busy process: what a step takes with sleeping and with spinning OpenMP threads.

Usage:  python benchmarks/speed/threads.py [--rounds 3] > benchmarks/results/speed/threads.md

Every figure is `hjepa pretrain scenes --recipe hjepa-tiny --plan`, a process of its own; all settings take turns in
every round. ``hjepa`` lets waiting threads sleep; "as torch does" loads torch first, so that they spin.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

import torch

PLAN = [
    "pretrain",
    "scenes",
    "--recipe",
    "hjepa-tiny",
    "--plan",
    "--json",
    "--train.attention",
    "plain",
    "--train.length",
    "100",
]
STARTS = {
    "hjepa": "from hjepa.cli import main; main()",
    "as torch does": "import torch; from hjepa.cli import main; main()",
}
CASES = [  # start, threads, another process beside it
    ("hjepa", 1, False),
    ("hjepa", 2, False),
    ("as torch does", 2, False),
    ("hjepa", 1, True),
    ("hjepa", 2, True),
    ("as torch does", 2, True),
]


def seconds_per_step(start: str, threads: int, beside: bool) -> float:
    """Return the seconds of a step as ``--plan`` measures them."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside else None
    try:
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | {
            "OMP_NUM_THREADS": str(threads)
        }
        done = subprocess.run(
            [sys.executable, "-c", STARTS[start], *PLAN], env=environment, capture_output=True, text=True, check=True
        )
    finally:
        if busy:
            busy.kill()
            busy.wait()
    return float(json.loads(done.stdout)["plan"]["seconds_per_step"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    taken: dict[tuple[str, int, bool], list[float]] = {case: [] for case in CASES}
    for _ in range(rounds):
        for case in CASES:
            taken[case].append(seconds_per_step(*case))
    alone = statistics.median(taken["hjepa", 1, False])
    print("# Two threads beside a busy process\n\n`python benchmarks/speed/threads.py`\n")
    print(f"{os.cpu_count()} cores, torch {torch.__version__}; median of {rounds} rounds and range.\n")
    print("| start | threads | beside a busy process | seconds per step | speed relative to one thread alone |")
    print("|---|---|---|---|---|")
    for (start, threads, beside), seconds in taken.items():
        middle = statistics.median(seconds)
        spread = f"{middle:.3f} [{min(seconds):.3f}, {max(seconds):.3f}]"
        print(f"| {start} | {threads} | {'yes' if beside else 'no'} | {spread} | {alone / middle:.2f} |")
