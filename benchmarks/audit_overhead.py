"""What an audit costs: one loop with and one without it, in two processes that take turns step by step.

    OMP_NUM_THREADS=1 python benchmarks/audit_overhead.py [--steps 21] [--batch 32]

Neighbouring steps are compared, because the speed of a shared machine wanders by more than an audit costs. All
steps but the first are the audited ones (`--steps` less one); the first is traced as well and shown by itself.
Prints the ratio audited / unaudited of time and of processor time, how long the verdict takes after the last
step, and whether the weights are equal bit for bit.
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


class Loop:
    """A training process that takes a step when it is told to."""

    def __init__(self, audited: bool, steps: int, batch: int, folder: Path) -> None:
        audit = ["-m", "hjepa.audit", "--steps", str(steps - 1), "--json", str(folder / "audit.json")]
        words = [sys.executable, *(audit if audited else []), str(LOOP), str(steps), str(batch)]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(words, text=True, **streams)

    def take(self) -> tuple[float, float]:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seconds, processor = json.loads(self.process.stdout.readline())
        return seconds, processor

    def end(self) -> tuple[str, float]:
        digest, began = self.process.stdout.readline().strip(), time.perf_counter()
        self.process.wait()
        return digest, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=21, help="optimizer steps; all but the first are audited")
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        loops = {audited: Loop(audited, options.steps, options.batch, Path(name)) for audited in (False, True)}
        taken: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        ends = {}
        for step in range(options.steps):
            for audited in (False, True) if step % 2 else (True, False):  # neither always comes first
                taken[audited].append(loops[audited].take())
                if step == options.steps - 1:
                    ends[audited] = loops[audited].end()
            print(f"step {step}: {taken[False][-1][0]:.2f} s, audited {taken[True][-1][0]:.2f} s", flush=True)
        judged = json.loads((Path(name) / "audit.json").read_text())
    for place, what in enumerate(("time", "processor time")):
        plain, audited = ([values[place] for values in taken[which]] for which in (False, True))
        pairs = [a / b for a, b in zip(audited[1:], plain[1:], strict=True)]
        print(f"{what}, audited / unaudited, {len(pairs)} audited steps: {sum(audited[1:]) / sum(plain[1:]):.4f}")
        low, middle, high = statistics.quantiles(pairs, n=4)
        print(f"  of neighbouring steps: median {middle:.4f}, quartiles {low:.4f} to {high:.4f}")
        print(f"  with the first, traced step: {sum(audited) / sum(plain):.4f}")
    print(f"from the last step to the end of the process: {ends[False][1]:.1f} s, audited {ends[True][1]:.1f} s")
    print(f"verdict {judged['verdict']} after {judged['steps']} steps")
    print(f"weights equal bit for bit: {ends[True][0] == ends[False][0]}")


if __name__ == "__main__":
    main()
