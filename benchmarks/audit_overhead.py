"""What an audit costs: whole processes with and without it, in turn, on a ViT-S with batch 32.

    python benchmarks/audit_overhead.py [--rounds 3] [--steps 20]

Prints the ratio audited / unaudited of the training loop's own time (all steps audited, one of them
traced) for each round, and the same of processor time, which is steadier on a shared machine with one
thread; then how much longer the whole process took, and whether the weights are equal bit for bit.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOOP = Path(__file__).with_name("audit_overhead_loop.py")


def run(audited: bool, steps: int, folder: Path) -> dict[str, float | str]:
    result = folder / "result.json"
    words = [str(LOOP), str(steps), str(result)]
    audit = ["-m", "hjepa.audit", "--steps", str(steps - 1), "--json", str(folder / "audit.json")] if audited else []
    began = time.perf_counter()
    subprocess.run([sys.executable, *audit, *words], check=True, stderr=subprocess.DEVNULL)
    whole = time.perf_counter() - began
    return {**json.loads(result.read_text()), "whole": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=21, help="optimizer steps; all but the first are audited")
    options = parser.parse_args()
    ratios, processor, wholes, equal = [], [], [], True
    with tempfile.TemporaryDirectory() as name:
        for number in range(options.rounds):
            order = (False, True) if number % 2 else (True, False)  # whichever comes first is not favoured
            by = {audited: run(audited, options.steps, Path(name)) for audited in order}
            ratios.append(by[True]["seconds"] / by[False]["seconds"])
            processor.append(by[True]["processor"] / by[False]["processor"])
            wholes.append(by[True]["whole"] - by[False]["whole"])
            equal &= by[True]["digest"] == by[False]["digest"]
            plain = by[False]["seconds"] / options.steps
            shown = f"time {ratios[-1]:.4f}, processor time {processor[-1]:.4f}"
            print(f"round {number + 1}: {shown}, {plain:.2f} s a step unaudited", flush=True)
    for what, values in (("time", ratios), ("processor time", processor)):
        print(f"{what}, audited / unaudited: {statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})")
    print(f"whole process, seconds more: median {statistics.median(wholes):.1f}")
    print(f"weights equal bit for bit: {equal}")


if __name__ == "__main__":
    main()
