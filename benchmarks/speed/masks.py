"""Microseconds per image to draw masks: ours beside lightly's ``IJEPAMaskCollator``, same mask settings.

    OMP_NUM_THREADS=1 python benchmarks/speed/masks.py [--grid 14] [--batch 256] [--repeats 200] [--json]

lightly is optional and not a dependency: ``pip install lightly`` (beside torch and torchvision) to compare.
Timed is processor time, with one thread: a busy machine stretches wall time, that of long calls most.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

from hjepa.masking import MaskSettings, MultiBlockSampler, ReferenceSampler

SETTINGS = MaskSettings()
TARGET = 5.0  # microseconds per image at 14x14 and batch 256 on one core


def microseconds(draws: dict[str, Callable[[int], object]], batch: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Return (median, fastest) time per image of each of ``draws``, functions of the step, called in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in draws}
    for step in range(repeats):
        for name, draw in draws.items():
            start = time.process_time()
            draw(step)
            seconds[name].append(time.process_time() - start)
    scale = 1e6 / batch
    return {name: (statistics.median(taken) * scale, min(taken) * scale) for name, taken in seconds.items()}


def lightly_draw(grid: int, batch: int) -> Callable[[int], object] | None:
    """Return a call of lightly's collator on ``batch`` empty images, or None where lightly is missing."""
    try:
        import torch
        from lightly.data.ijepa_collate import IJEPAMaskCollator  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    torch.set_num_threads(1)
    collator = IJEPAMaskCollator(
        input_size=(grid * 16, grid * 16),
        patch_size=16,
        enc_mask_scale=SETTINGS.context_scale,
        pred_mask_scale=SETTINGS.target_scale,
        aspect_ratio=SETTINGS.target_aspect,
        nenc=1,
        npred=SETTINGS.num_targets,
        min_keep=4,
    )
    images = [torch.zeros(0) for _ in range(batch)]  # the collator also stacks them: nothing to stack
    return lambda step: collator(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--grid", type=int, default=14)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    grid, batch = (options.grid, options.grid), options.batch

    ours, reference = MultiBlockSampler(grid, SETTINGS), ReferenceSampler(grid, SETTINGS)
    draws: dict[str, Callable[[int], object]] = {
        "hjepa multiblock": lambda step: ours.sample(step, batch),
        "hjepa ijepa-reference": lambda step: reference.sample(step, batch),
    }
    microseconds(draws, batch, options.repeats)  # every block size comes up once and is prepared
    taken = microseconds(draws, batch, options.repeats)
    ratio = None
    if lightly := lightly_draw(options.grid, batch):
        name = f"lightly {version('lightly')} IJEPAMaskCollator"
        both = {"hjepa": draws["hjepa multiblock"], name: lightly}
        microseconds(both, batch, 3)
        in_turn = microseconds(both, batch, max(15, options.repeats // 10))
        taken[name] = in_turn[name]
        ratio = in_turn[name][0] / in_turn["hjepa"][0]

    if options.json:
        print(json.dumps({"median_and_fastest": taken, "ratio": ratio}))
        return
    print(f"grid {grid[0]}x{grid[1]}, batch {batch}, processor microseconds per image:   median  fastest")
    for name, (median, fastest) in taken.items():
        print(f"  {name:56s} {median:8.2f} {fastest:8.2f}")
    if ratio:
        print(f"  lightly / hjepa, medians of calls made in turn           {ratio:8.1f}")
    else:
        print("  lightly is not installed: `pip install lightly` to compare with its IJEPAMaskCollator")
    if grid == (14, 14) and batch == 256:
        verdict = "met" if taken["hjepa multiblock"][0] <= TARGET else "MISSED"
        print(f"  target of at most {TARGET:g} for hjepa multiblock: {verdict}")


if __name__ == "__main__":
    main()
