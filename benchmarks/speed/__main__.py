"""How fast a training step is on the machine at hand, beside others that do the same work. At most four minutes.

    python -m benchmarks.speed [--sizes ti4-128,s16-32] [--minutes 4] [--threads 1] [--out benchmarks/results/speed]

Every rival is a process of its own; they take turns, and the order of the turns alternates. On a CPU processor time
counts (other processes hardly change it), on a card the clock. Ratios are of neighbouring turns. The peak is that of
square matrix products, which take their turns as well. Writes MACHINE.md, MACHINE.json and profiles.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from benchmarks.speed.rivals import MATRIX, RIVALS, matrix_side
from benchmarks.speed.sizes import DEFAULT, SIZES, sized

from hjepa.setup.machine import choose_device, choose_precision, hardware

ROOT = Path(__file__).parents[2]


class Process:
    """A rival in its process; idle until it is asked."""

    def __init__(self, which: str, size: str, options: argparse.Namespace) -> None:
        words = [sys.executable, "-m", "benchmarks.speed.rivals", which, size]
        paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "OMP_WAIT_POLICY": "passive"}
        self.process = subprocess.Popen(
            [*words, str(options.batch), options.precision, options.device],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )  # fmt: skip

    def ask(self, request: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{request}\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a rival ended: {' '.join(map(str, self.process.args))}")
        return json.loads(line)

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(name: str, options: argparse.Namespace, seconds: float, out: Path) -> dict[str, Any]:
    """Measure the rivals of one size; return what the report needs."""
    began = time.perf_counter()
    rivals = [rival for rival in options.rivals.split(",") if rival != "lightly" or find_spec("lightly")]
    processes = {which: Process(which, name, options) for which in [*rivals, MATRIX]}
    for process in processes.values():
        process.answer()  # it is ready
    flops = {which: processes[which].ask("arithmetic")["flops"] for which in rivals}
    flops[MATRIX] = 2.0 * matrix_side(torch.device(options.device)) ** 3
    clock = "wall" if options.device == "cuda" else "processor"
    steps = {which: max(1, round(1.0 / process.ask(1)[clock])) for which, process in processes.items()}
    turns: dict[str, list[dict[str, float]]] = {which: [] for which in processes}
    for_profiles = 0.15 * seconds if options.profile else 0.0
    for number in range(options.rounds):
        start = time.perf_counter()
        for which in list(processes)[:: 1 if number % 2 else -1]:
            turns[which].append(processes[which].ask(steps[which]))
        left = 1.2 * (time.perf_counter() - start) + for_profiles
        if number >= 2 and time.perf_counter() - began + left > seconds:
            break
    for which in rivals if options.profile else ():
        if which in ("step", "plain") and time.perf_counter() - began < seconds:
            processes[which].ask(f"profile {out / f'profile-{name}-{which}.txt'}")
    for process in processes.values():
        process.end()
    rate = {which: [steps[which] / turn[clock] for turn in turns[which]] for which in processes}  # steps a second
    found = {which: row(which, rate, flops, turns, sized(name, options.batch).batch) for which in rivals}
    peak = statistics.median(flops[MATRIX] * each for each in rate[MATRIX])
    return {
        "title": sized(name, options.batch).title,
        "rivals": found,
        "peak_flops": peak,
        "seconds": time.perf_counter() - began,
    }


def row(which: str, rate: dict[str, list[float]], flops: dict[str, float], turns: Any, batch: int) -> dict[str, Any]:
    """Return the numbers of one rival: medians, and the range over the rounds."""
    shares = [flops[which] * own / (flops[MATRIX] * peak) for own, peak in zip(rate[which], rate[MATRIX], strict=True)]
    ratios = [own / plain for own, plain in zip(rate[which], rate["plain"], strict=True)]
    return {
        "images_per_second": spread([batch * each for each in rate[which]]),
        "of_plain": spread(ratios),
        "share_of_peak": spread(shares),
        "gflop_per_image": flops[which] / batch / 1e9,
        "memory_gb": turns[which][-1]["memory_gb"],
        "rounds": len(ratios),
    }


def spread(values: list[float]) -> list[float]:
    """Return median, smallest and largest."""
    return [statistics.median(values), min(values), max(values)]


def report(found: dict[str, dict[str, Any]], options: argparse.Namespace, machine: str) -> str:
    """Return the tables as Markdown."""
    counted = "the clock" if options.device == "cuda" else f"processor time, {options.threads} thread(s) each"
    load = "" if options.device == "cuda" else f"; load of the machine at the end {os.getloadavg()[0]:.1f}"
    lines = [
        f"# A training step on {machine}\n",
        f"`python -m benchmarks.speed {' '.join(sys.argv[1:])}`\n",
        f"{options.precision}, torch {torch.__version__}, Python {platform.python_version()}; {counted}{load}. Median "
        "and range over rounds; ratios are of the turns of one round. The plain loop has attention written out, the "
        "context repeated for every block and the average in a Python loop, and gets the same images and masks. GFLOP "
        "are those of matrix products (torch.utils.flop_counter).\n",
    ]
    for one in found.values():
        lines += [
            f"## {one['title']}\n",
            f"Peak of square matrix products in the same turns: {one['peak_flops'] / 1e9:,.0f} GFLOP/s.\n",
            "| | images/s | of the plain loop | GFLOP an image | share of the peak | memory, GiB | rounds |",
            "|---|---|---|---|---|---|---|",
        ]
        for which, row_ in one["rivals"].items():
            speed, ratio, share = (row_[key] for key in ("images_per_second", "of_plain", "share_of_peak"))
            lines.append(
                f"| {which} | {speed[0]:,.1f} ({speed[1]:,.1f} to {speed[2]:,.1f}) "
                f"| {ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f}) | {row_['gflop_per_image']:.2f} "
                f"| {share[0]:.0%} ({share[1]:.0%} to {share[2]:.0%}) | {row_['memory_gb']:.2f} | {row_['rounds']} |"
            )
        lines.append("")
    missing = "" if find_spec("lightly") else "lightly is not installed, so its row is missing. "
    return "\n".join([*lines, f"{missing}stable-pretraining is not measured."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", help=f"comma-separated: {', '.join(SIZES)}")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=9, help="at most so many; fewer where time runs out")
    parser.add_argument("--rivals", default=",".join(RIVALS), help="comma-separated; plain has to be among them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch", type=int, default=0, help="images a step, instead of those of the size")
    parser.add_argument("--profile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "speed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = choose_device(options.device)
    options.device, options.precision = device.type, choose_precision(options.precision, device)[0]
    machine = hardware()
    title = machine["gpu"] if device.type == "cuda" else f"{machine['cores']} cores of {machine['cpu']}"
    names = options.sizes.split(",") if options.sizes else list(DEFAULT[device.type])
    options.out.mkdir(parents=True, exist_ok=True)
    found = {name: measure(name, options, 60 * options.minutes / len(names), options.out) for name in names}
    stem = re.sub(r"\W+", "-", (machine["gpu"] or "cpu").lower())
    text = report(found, options, title)
    (options.out / f"{stem}.md").write_text(text)
    (options.out / f"{stem}.json").write_text(json.dumps({"machine": machine, "sizes": found}, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
