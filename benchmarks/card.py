"""The rows of the speed table that need a card, in one command, in less than eight minutes, without a network.

    python benchmarks/card.py [--images cifar10.npz] [--only ROW ...] [--out FILE.md]

Each row runs in a process of its own, so that one that fails or takes too long costs its own time only. First it is
checked that a captured step computes what the step computes and that a skipped one moves nothing; a speed without that
means nothing. Images are CIFAR-10 if a file in MedMNIST's layout is named, or else noise of the same size: the work is
the same. On a machine without a card it says so; with ``--device cpu`` every row runs with tiny sizes, which shows that
the script works and nothing else.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hjepa
from hjepa.config import Layer, read_recipe, resolve
from hjepa.data.augment import DRAWS, Augment, ResizeToInput
from hjepa.data.resident import ResidentImages
from hjepa.data.sources import ArraySource
from hjepa.setup.build import build
from hjepa.setup.timing import time_steps

SECONDS = 480  # for all rows together
VITS = {
    "small": {"width": 384, "depth": 12, "heads": 6, "predictor_width": 192, "predictor_depth": 6},
    "base": {"width": 768, "depth": 12, "heads": 12, "predictor_width": 384, "predictor_depth": 6},
}


def images_of(side: int, count: int, path: str | None = None) -> np.ndarray:
    """Return uint8 [n, side, side, 3]: those of a file, or noise."""
    if path and side == 32:
        return np.load(path)["train_images"]
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def settings(device: str, **sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {**sections, "train": {"device": device, "checkpoint_every": 10**6, **sections.get("train", {})}}


# ---- rows ---------------------------------------------------------------------------------------


def checks(device: str, _images: str | None) -> dict[str, Any]:
    """Captured and plain steps compute the same; a skipped step moves nothing; crops are those of the CPU."""
    found: dict[str, Any] = {}
    source, numbers = ArraySource("noise", images_of(32, 256)), {}
    steps, size = (20, 64) if device == "cuda" else (3, 4)
    for precision in ("float32", "bf16"):
        for capture in ("off", "auto"):
            layer = settings(device, train={"length": 200, "precision": precision, "capture": capture},
                             optim={"batch_size": size})  # fmt: skip
            parts = build(resolve([read_recipe("hjepa-tiny"), Layer("card", layer)]), source)
            trainer, stream = parts.trainer, parts.batches(0)
            trainer.capturing = True
            numbers[capture] = torch.stack([trainer.train_step(next(stream)).numbers for _ in range(steps)]).cpu()
        apart = (numbers["off"] - numbers["auto"]).abs()[:, 1] / numbers["off"][:, 1]
        found[f"largest relative difference of the loss, captured and not, {steps} steps, {precision}"] = float(
            apart.max()
        )
    found["recordings"] = trainer.captured.recordings if trainer.captured else "none: not captured"
    (broken,) = next(stream)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    state = [tensor.clone() for each in trainer.optimizer.state.values() for tensor in each.values()]
    result = trainer.train_step([broken._replace(images=torch.full_like(broken.images, float("nan")))])
    same = all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
    after = [tensor for each in trainer.optimizer.state.values() for tensor in each.values()]
    same &= all(torch.equal(a, b) for a, b in zip(state, after, strict=True))
    found["a skipped step moves nothing"] = bool(same and not result.stepped and trainer.skipped_steps == 1)
    augment = Augment(ResizeToInput((32, 32), 3), (0.3, 1.0), (3 / 4, 4 / 3), 0.5)
    resident = ResidentImages(source, augment, parts.batches.device)
    picked, draws = np.arange(256), np.random.default_rng(1).random((256, DRAWS))
    draw = resident.draw(picked, draws)
    crops = resident.batch(type(draw)(*(part.to(parts.batches.device) for part in draw))).cpu().int()
    found["largest difference of a pixel from the CPU's crops"] = int(
        (crops - augment.batch(source.batch(picked), draws).int()).abs().max()
    )
    return found


def asked(device: str) -> None:
    """Fail where a step waits for the card: torch raises an error at each such operation."""
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")


def silent_step(device: str, _images: str | None) -> dict[str, Any]:
    """Take plain steps while torch refuses every operation that waits for the card."""
    source = ArraySource("noise", images_of(32, 256))
    for recipe in ("hjepa-tiny", "hjepa-small", "ijepa-small"):
        layer = settings(
            device, train={"length": 200, "capture": "off"}, optim={"batch_size": 64 if device == "cuda" else 4}
        )
        parts = build(resolve([read_recipe(recipe), Layer("card", layer)]), source)
        stream = parts.batches(0)
        parts.trainer.train_step(next(stream))
        asked(device)
        for _ in range(5):
            parts.trainer.train_step(next(stream))
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    return {"steps that wait for the card": 0}


def end_to_end(recipe: str, side: int, count: int, steps: int, **changes: Any) -> Callable[..., dict[str, Any]]:
    """Return a row: a whole run by ``hjepa.pretrain``, by the lines of its metrics after the first fifth."""

    def row(device: str, images: str | None) -> dict[str, Any]:
        layer = settings(device, **changes)
        layer["train"] |= {"length": steps if device == "cuda" else 40, "log_every": 20}
        if device != "cuda":
            layer |= {"optim": {"batch_size": 8}}
        with tempfile.TemporaryDirectory() as folder:
            pixels = images_of(side, count if device == "cuda" else 32, images)
            run = hjepa.pretrain(pixels, out=Path(folder) / "run", recipe=recipe, **layer)
            lines = run.metrics[max(2, len(run.metrics) // 5) :] or run.metrics[-1:]
            audit = run.record["audit"]["verdict"]
        speeds = [line["images_per_second"] for line in lines]
        return {
            "images/s": round(statistics.median(speeds)),
            "slowest and fastest line": [round(min(speeds)), round(max(speeds))],
            "waiting": round(statistics.mean(line["data_wait"] for line in lines), 4),
            "audit": audit,
        }

    return row


def step_alone(vit: str, batch: int) -> Callable[..., dict[str, Any]]:
    """Return a row: the step of a ViT at 224 pixels on a batch that lies there, captured and not, in turn."""

    def row(device: str, _images: str | None) -> dict[str, Any]:
        side, size = (224, batch) if device == "cuda" else (32, 4)
        model = {**VITS[vit], "patch_size": 16, "predictor_heads": VITS[vit]["heads"]}
        if device != "cuda":
            model |= {"depth": 2, "predictor_depth": 1}
        source, seconds = ArraySource("noise", images_of(side, 2 * size)), {"auto": [], "off": []}
        memory = 0.0
        for capture in ("auto", "off", "auto", "off"):
            layer = settings(device, train={"length": 1000, "capture": capture}, model=model,
                             data={"image_size": side}, optim={"batch_size": size})  # fmt: skip
            with contextlib.suppress(AttributeError):
                torch.cuda.reset_peak_memory_stats()
            # The four published blocks, of one size: one shape of masks, so that one graph is measured.
            blocks = {"sampler": "multiblock", "target_scale": [0.18, 0.18], "target_aspect": [1.0, 1.0],
                      "context_scale": [1.0, 1.0], "min_context": 1}  # fmt: skip
            parts = build(resolve([Layer("card", layer | {"masking": blocks})]), source)
            seconds[capture].append(time_steps(parts.trainer, parts.batches, 10).seconds)
            if device == "cuda":
                memory = torch.cuda.max_memory_allocated() / 2**30
            del parts
        rates = {name: [round(size / one) for one in times] for name, times in seconds.items()}
        return {"captured, images/s": rates["auto"], "as it is": rates["off"], "peak GiB": round(memory, 1)}

    return row


def budget(device: str, images: str | None) -> dict[str, Any]:
    """A run with a budget, by the clock."""
    wanted = 60 if device == "cuda" else 20
    with tempfile.TemporaryDirectory() as folder:
        pixels, start = images_of(32, 50_000 if device == "cuda" else 64, images), time.perf_counter()
        run = hjepa.pretrain(
            pixels, out=Path(folder) / "run", recipe="hjepa-tiny", budget=f"{wanted}s", **settings(device)
        )
        taken = time.perf_counter() - start
        return {"budget": wanted, "taken": round(taken, 1), "off by": f"{taken / wanted - 1:+.1%}",
                "steps": run.record["steps"], "corrections": len(run.record.get("corrections", []))}  # fmt: skip


ROWS: dict[str, Callable[[str, str | None], dict[str, Any]]] = {
    "checks": checks,
    "silent-step": silent_step,
    "hjepa-small, 32 px": end_to_end("hjepa-small", 32, 50_000, 1500),
    "hjepa-small, 32 px, not captured": end_to_end("hjepa-small", 32, 50_000, 300, train={"capture": "off"}),
    "hjepa-tiny, 32 px": end_to_end("hjepa-tiny", 32, 50_000, 1500),
    "hjepa-tiny, 32 px, not captured": end_to_end("hjepa-tiny", 32, 50_000, 300, train={"capture": "off"}),
    "ViT-S/16, 224 px, end to end": end_to_end(
        "hjepa-small", 224, 4_000, 200, model={**VITS["small"], "patch_size": 16, "predictor_heads": 6},
        data={"image_size": 224}, optim={"batch_size": 256},
    ),
    "ViT-S/16, 224 px, step alone": step_alone("small", 256),
    "ViT-B/16, 224 px, step alone": step_alone("base", 128),
    "budget": budget,
}  # fmt: skip


# ---- all of them --------------------------------------------------------------------------------


def run_row(name: str, given: argparse.Namespace, until: float) -> dict[str, Any]:
    words = [sys.executable, __file__, "--row", name, "--device", given.device]
    words += ["--images", given.images] if given.images else []
    left = until - time.monotonic()
    if left < 20:
        return {"not run": "no time left"}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=min(left, 100), check=False)
    except subprocess.TimeoutExpired:
        return {"failed": "took longer than 100 s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="an .npz file with train_images [n, 32, 32, 3]; default: noise")
    parser.add_argument("--only", nargs="*", choices=ROWS, help="run these rows only")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --device cpu only shows that the script works")
    if given.row:
        print(json.dumps(ROWS[given.row](given.device, given.images)))
        return
    machine = torch.cuda.get_device_name() if given.device == "cuda" else "CPU, tiny sizes: figures mean nothing"
    lines = [f"{machine}, torch {torch.__version__}", "", "| row | found |", "| --- | --- |"]
    print("\n".join(lines), flush=True)
    until = time.monotonic() + SECONDS
    for name in given.only or ROWS:
        found = run_row(name, given, until)
        lines.append(f"| {name} | {'; '.join(f'{key}: {value}' for key, value in found.items())} |")
        print(lines[-1], flush=True)
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
