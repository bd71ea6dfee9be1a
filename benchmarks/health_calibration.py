"""Runs made to fail on purpose, and sound ones: what the measures say, and the verdict.

Usage:  python benchmarks/health_calibration.py [--steps 200] [--seeds 0 1 2] [--only NAME]

Each run is a real Session (the product's loop) on the embedded scenes; the faults are put in
from outside, the health code does not know of them.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from hjepa.api import TrainingCallback
from hjepa.config import Layer, resolve
from hjepa.data.scenes import Scenes
from hjepa.models.hjepa import HJEPA
from hjepa.models.levels import at_least_float32, normalise_targets
from hjepa.runs.folder import RunFolder
from hjepa.runs.record import new_record
from hjepa.runs.session import Session
from hjepa.setup.build import build

SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"image_size": [64, 64]},
    "augment": {"crop_scale": None},
    "model": {
        "patch_size": 8, "width": 96, "depth": 3, "heads": 3,
        "predictor_width": 48, "predictor_depth": 2, "predictor_heads": 3,
    },
    "optim": {"batch_size": 64, "lr": 1e-3, "final_weight_decay": 0.04},
    "ema": {"momentum": 0.99},
    "train": {"precision": "float32", "attention": "plain", "device": "cpu", "log_every": 10},
}  # fmt: skip


def sound(model: HJEPA) -> None:
    """Leave the model as it is."""


def share_weights_and_gradients(model: HJEPA) -> None:
    """No average and no stop-gradient: the targets are the context encoder's own, trained as well."""
    context = model.context_encoder

    def target_cells(images: Tensor) -> tuple[list[Tensor], Tensor]:
        raw = at_least_float32(context(images))
        return [normalise_targets(raw)], raw.detach().mean(1)

    model.target_cells = target_cells  # type: ignore[method-assign]
    model.target_encoder.update = lambda c, m: model.target_encoder.copy_from_context_encoder(c)  # type: ignore[method-assign]


def hide_the_context(model: HJEPA) -> None:
    """The predictor sees nothing of the image: only position can help."""
    model.context_encoder.register_forward_hook(lambda _m, _i, output: output * 0.0)


NO_AVERAGE = {"ema": {"momentum": 0.0, "final_momentum": 0.0}}
TOO_FAST = {"optim": {"lr": 0.2, "start_lr": 0.02}}
COLLAPSES = {"collapsed", "partial collapse"}
# Two hundred steps without an average collapse on some machines and with some seeds, and not on others: predictor and
# stop-gradient can be enough, as in SimSiam. Whatever happened, such a run must not pass for one that has learned.
NOTHING_LEARNED = COLLAPSES | {"positional collapse", "diverging", "not learned yet", "watch"}
CASES: dict[str, tuple[Callable[[HJEPA], None], dict[str, dict[str, Any]], set[str]]] = {
    "sound": (sound, {}, {"healthy", "watch", "not learned yet"}),
    "no EMA and no stop-gradient": (share_weights_and_gradients, {}, COLLAPSES),
    "momentum 0": (sound, NO_AVERAGE, NOTHING_LEARNED),
    "learning rate x100": (sound, TOO_FAST, COLLAPSES | {"diverging"}),
    "context hidden": (hide_the_context, {}, {"positional collapse"}),
}


def run(name: str, *, steps: int, seed: int) -> tuple[dict[str, Any], str]:
    """Train one case; return its last line and its verdict."""
    change, settings, _ = CASES[name]
    source = Scenes(length=20_000)
    sections = {s: SETTINGS.get(s, {}) | settings.get(s, {}) for s in SETTINGS}
    sections["train"] = sections["train"] | {"length": steps, "seed": seed, "checkpoint_every": 10**6}
    parts = build(resolve([Layer("calibration", sections)]), source)
    model = parts.trainer.model
    change(model)
    with tempfile.TemporaryDirectory() as folder:
        target = RunFolder(Path(folder) / "run")
        record = new_record("calibration", source, model, parts.resolved.config)
        target.create(record, overwrite=False)
        session = Session(parts, target, record, TrainingCallback())
        session.begin_content()
        session.run()
    assert session.verdict is not None
    return dict(session.health.history[-1]), session.verdict.verdict


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=CASES)
    given = parser.parse_args()
    keys = ("loss", "relative_loss", "target_std", "effective_rank", "cross_sample_gap", "position_share", "grad_norm")
    print("| run | seed | verdict | expected | " + " | ".join(keys) + " |\n|" + "---|" * (4 + len(keys)))
    for case in [given.only] if given.only else CASES:
        for seed in given.seeds:
            line, verdict = run(case, steps=given.steps, seed=seed)
            told = "yes" if verdict in CASES[case][2] else "NO"
            print(
                f"| {case} | {seed} | {verdict} | {told} | " + " | ".join(f"{line[k]:.3f}" for k in keys) + " |",
                flush=True,
            )
