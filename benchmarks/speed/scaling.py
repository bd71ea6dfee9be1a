"""How the time of a step grows: with levels, with the size of images, with the size of the encoder.

    python -m benchmarks.speed.scaling [--what levels,images,models] [--rounds 5] [--batch 0]
        > benchmarks/results/speed/scaling.md

All variants of a question live in one process and take turns, one step each; processor time on a CPU, the clock on a
card. Ratios are of the turns of one round. Exponents are slopes of log(time) over log(patches) or log(parameters).
"""

import argparse
import itertools
import math
import statistics
import time
from dataclasses import replace

import torch
from benchmarks.speed.rivals import Take, steps_of
from benchmarks.speed.sizes import BASE, LARGE, SMALL, TINY, Size, resolved_size

from hjepa.data.sources import open_source
from hjepa.setup.build import build
from hjepa.setup.machine import choose_device, choose_precision

NAMES = {TINY: "Ti", SMALL: "S", BASE: "B", LARGE: "L"}
SHALLOW = (96, 4, 3)
QUESTIONS = {
    "levels": [
        Size("levels", 32, 4, TINY, SHALLOW, 32, tuple((round(12 * (k + 1) / count), 1) for k in range(count)))
        for count in (1, 2, 3, 4)
    ],
    "images": [Size("images", side, 8, TINY, SHALLOW, 4) for side in (32, 64, 112, 224, 448)],
    "models": [Size("models", 112, 16, encoder, (384, 6, 6), 4) for encoder in NAMES],
}


def label(size: Size) -> str:
    """Return what differs between the variants of a question."""
    shown = {"levels": f"{len(size.levels or ())} levels", "images": f"{size.image} px"}
    return shown.get(size.name, f"ViT-{NAMES[size.encoder]}")


def amount(size: Size, parameters: int) -> float:
    """Return what the time is expected to grow with."""
    return {"levels": len(size.levels or ()), "images": (size.image / size.patch) ** 2}.get(size.name, parameters)


def step_of(size: Size, precision: str, device: str) -> tuple[Take, int]:
    """Return a step on batches that lie ready, and the number of trained parameters."""
    source = open_source(replace(size, batch=8).images()[: max(8, size.batch)])
    parts = build(resolved_size(size, source, precision, device, 100_000, attention="plain"), source)
    ready = itertools.cycle(list(itertools.islice(parts.batches(0), 2)))
    count = sum(p.numel() for p in parts.trainer.model.parameters() if p.requires_grad)
    return steps_of(parts.trainer, ready, lambda result, waited: False), count


def slope(xs: list[float], ys: list[float]) -> float:
    """Return the slope of log(y) over log(x), by least squares."""
    logs = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True)]
    middle = [statistics.mean(axis) for axis in zip(*logs, strict=True)]
    above = sum((x - middle[0]) * (y - middle[1]) for x, y in logs)
    return above / sum((x - middle[0]) ** 2 for x, _ in logs)


def measured(sizes: list[Size], options: argparse.Namespace) -> tuple[list[list[float]], list[float]]:
    """Return the seconds of each variant's turns, and what they should grow with."""
    device = options.device
    built = [step_of(size, options.precision, device) for size in sizes]
    seconds: list[list[float]] = [[] for _ in sizes]
    clock = time.perf_counter if device == "cuda" else time.process_time
    for take, _ in built:
        take(1)
    for number in range(options.rounds):
        for place in range(len(sizes))[:: 1 if number % 2 else -1]:
            start = clock()
            built[place][0](1)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[place].append(clock() - start)
    return seconds, [amount(size, count) for size, (_, count) in zip(sizes, built, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default=",".join(QUESTIONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=0, help="images a step, instead of those of the question")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = choose_device("auto")
    options.device, options.precision = device.type, choose_precision("auto", device)[0]
    print("# How the time of a step grows\n")
    print(f"`python -m benchmarks.speed.scaling`, {options.device}, {options.precision}, torch {torch.__version__};")
    print("processor time of one thread on a CPU. Medians and ranges over the rounds.\n")
    for what in options.what.split(","):
        sizes = [replace(size, batch=options.batch or size.batch) for size in QUESTIONS[what]]
        seconds, amounts = measured(sizes, options)
        print(f"## {what}\n\n| | seconds a step | of the first |\n|---|---|---|")
        for size, own in zip(sizes, seconds, strict=True):
            ratios = [a / b for a, b in zip(own, seconds[0], strict=True)]
            print(f"| {label(size)}, batch {size.batch} | {statistics.median(own):.3f} | {in_words(ratios)} |")
        medians = [statistics.median(own) for own in seconds]
        if what != "levels":
            steps = [f"{slope(amounts[k : k + 2], medians[k : k + 2]):.2f}" for k in range(len(sizes) - 1)]
            grown = "patches" if what == "images" else "trained parameters"
            print(f"\nExponent over {grown}: {slope(amounts, medians):.2f}; from one to the next {', '.join(steps)}.\n")
        print(flush=True)


def in_words(ratios: list[float]) -> str:
    """Return median and range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
