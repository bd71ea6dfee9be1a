"""Time the steps of several configurations in turns, in one process.

    python benchmarks/quality/step_time.py cifar10 --variant "--recipe hjepa-tiny" \
        --variant "--recipe hjepa-tiny --model.levels 0"

Every configuration takes a step, then every one the next, so that other work on the machine slows all of them alike.
On a CPU the processor time of a step counts, of all threads, which does not grow while another process has the core;
on a card the time until the card has finished. Prints the median of each as JSON; ``lab.py`` turns the ratios into
numbers of steps.
"""

import argparse
import json
import shlex
import statistics
import time
from typing import Any

import torch

from hjepa.commands.given import given_layers
from hjepa.config import resolve
from hjepa.data.sources import open_source
from hjepa.setup.build import Parts, build

FIRST = 3  # steps that are not counted: memory is allocated, kernels are chosen


def parts_of(data: str, words: list[str]) -> Parts:
    """Build a run from its options, without a folder."""
    options = [*words, "--train.length", "1000"]
    recipe = None
    if "--recipe" in options:
        at = options.index("--recipe")
        recipe, options = options[at + 1], options[:at] + options[at + 2 :]
    resolved = resolve(given_layers(recipe, None, None, options, {}))
    return build(resolved, open_source(data, resolved.config.data.channels))


def seconds_in_turns(runs: list[Parts], steps: int) -> list[list[float]]:
    """Return the seconds of ``steps`` steps of each run, made in turns."""
    on_card = runs[0].trainer.accelerator.device.type == "cuda"
    streams = [parts.batches(0) for parts in runs]
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(FIRST + steps):
        for parts, stream, seconds in zip(runs, streams, found, strict=True):
            before = _now(on_card)
            parts.trainer.train_step(next(stream))
            seconds.append(_now(on_card) - before)
    return [seconds[FIRST:] for seconds in found]


def _now(on_card: bool) -> float:
    if on_card:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main() -> None:
    """Print the measurement as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--variant", action="append", required=True, help="options of hjepa pretrain, in one word")
    parser.add_argument("--steps", type=int, default=60, help="steps of each that are counted")
    asked = parser.parse_args()
    runs = [parts_of(asked.data, shlex.split(words)) for words in asked.variant]
    found = seconds_in_turns(runs, asked.steps)
    rows: list[dict[str, Any]] = [
        {"variant": words, "median": statistics.median(seconds), "seconds": seconds}
        for words, seconds in zip(asked.variant, found, strict=True)
    ]
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
