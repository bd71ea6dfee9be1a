"""Step-for-step parity with the released I-JEPA, on its recorded numbers, through our own step.

``HJEPA_REFERENCE`` names the stem of another pair of files of the same format (any sizes).
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from hjepa.models.hjepa import build_hjepa
from hjepa.models.levels import normalise_targets
from hjepa.models.positions import sincos_2d
from hjepa.setup.starting_weights import load_starting_weights
from hjepa.training.parameters import build_optimizer
from hjepa.training.rates import Schedules
from hjepa.training.schedules import Cosine, EMAScheduler, WarmupCosine
from hjepa.training.trainer import MicroBatch, Trainer

STEM = Path(os.environ.get("HJEPA_REFERENCE", Path(__file__).parent / "reference" / "ijepa_small"))
RELATIVE = 1e-9


def close(actual: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """Relative to the largest entry of the tensor: single entries may be sums that cancel."""
    assert actual.shape == expected.shape, what
    assert actual.dtype == expected.dtype == torch.float64, what
    scale = expected.abs().max().clamp_min(1e-30)
    error = float((actual - expected).abs().max() / scale)
    assert error <= RELATIVE, f"{what}: relative difference {error:.2e}"


def released_checkpoint(vectors: dict[str, torch.Tensor], folder: Path, prefix: str = "module.") -> Path:
    """Write the recorded initial weights as the released I-JEPA saves a checkpoint: each part of a DDP wrapper."""
    encoder, predictor = (
        {prefix + name: tensor for name, tensor in section(vectors, f"init.{part}.").items()}
        for part in ("encoder", "predictor")
    )
    parts = {"encoder": encoder, "predictor": predictor, "target_encoder": encoder}
    torch.save(parts | {"opt": {}, "scaler": None, "epoch": 0, "loss": 0.0}, folder / "released.pth.tar")
    return folder / "released.pth.tar"


@pytest.fixture(scope="module")
def replay(tmp_path_factory):
    """Run the recorded steps through Trainer.train_step and keep what each one did."""
    meta = json.loads(STEM.with_suffix(".json").read_text())
    vectors = load_file(STEM.with_suffix(".safetensors"))
    plan = meta["schedule"]
    per_epoch, epochs = plan["iterations_per_epoch"], plan["epochs"]
    total, warmup = per_epoch * epochs, per_epoch * plan["warmup_epochs"]
    image_size = (meta["image_size"],) * 2 if isinstance(meta["image_size"], int) else tuple(meta["image_size"])
    model = build_hjepa(
        image_size=image_size,
        patch_size=meta["patch_size"],
        channels=meta["in_chans"],
        width=meta["embed_dim"],
        depth=meta["depth"],
        heads=meta["num_heads"],
        mlp_ratio=meta["mlp_ratio"],
        predictor_width=meta["predictor_embed_dim"],
        predictor_depth=meta["predictor_depth"],
        predictor_heads=meta["predictor_num_heads"],
        momentum=EMAScheduler(*plan["ema"], epochs=epochs, steps_per_epoch=per_epoch),
        seed=0,
    ).double()
    matched = load_starting_weights(model, released_checkpoint(vectors, tmp_path_factory.mktemp("released")))
    optimizer = build_optimizer(model, betas=tuple(meta["optimizer"]["betas"]), eps=meta["optimizer"]["eps"])
    schedules = Schedules(
        lr=WarmupCosine(plan["start_lr"], plan["lr"], plan["final_lr"], warmup, total),
        weight_decay=Cosine(plan["weight_decay"], plan["final_weight_decay"], total),
    )
    trainer = Trainer(model, optimizer, schedules)

    # Gradients are dropped at the end of a step, so they are caught where the optimizer sees them.
    gradients: dict[str, torch.Tensor] = {}

    def catch_gradients(*_):
        if not gradients:
            gradients.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    optimizer.register_step_pre_hook(catch_gradients)
    contexts: list[torch.Tensor] = []
    model.context_encoder.register_forward_hook(lambda _m, _i, output: contexts.append(output.detach()))
    results, after = [], {}
    for step in range(len(meta["steps"])):
        batch = MicroBatch(*(vectors[f"step{step}.{n}"] for n in ("images", "context_index", "target_index")))
        results.append(trainer.train_step([batch]))
        after[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return SimpleNamespace(
        meta=meta, vectors=vectors, model=model, results=results, after=after, matched=matched,
        gradients=gradients, contexts=contexts, schedules=schedules, total=total,
    )  # fmt: skip


def section(vectors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in vectors.items() if name.startswith(prefix)}


def block_major(tokens: torch.Tensor) -> torch.Tensor:
    """[B, K, T, D] -> [K*B, T, D], the order of the recording."""
    return tokens.transpose(0, 1).flatten(0, 1)


def test_every_recorded_weight_is_loaded(replay):
    counts = {m.part: m.tensors for m in replay.matched}
    assert counts == {part: len(section(replay.vectors, f"init.{part}.")) for part in ("encoder", "predictor")}


def test_our_position_tables_equal_the_recorded_ones(replay):
    side = replay.meta["image_size"] // replay.meta["patch_size"]
    for name in ("encoder.pos_embed", "predictor.predictor_pos_embed"):
        recorded = replay.vectors[f"init.{name}"][0]
        assert torch.allclose(sincos_2d(recorded.shape[1], (side, side)), recorded, rtol=0, atol=1e-6), name


def test_context_encoder_output(replay):
    close(replay.contexts[0], replay.vectors["step0.context"], "context")


def test_targets(replay):
    close(block_major(replay.results[0].forward.levels[0].targets), replay.vectors["step0.target"], "target")


def test_predictions(replay):
    close(
        block_major(replay.results[0].forward.levels[0].predictions), replay.vectors["step0.prediction"], "prediction"
    )


def test_losses_of_all_steps(replay):
    for recorded, result in zip(replay.meta["steps"], replay.results, strict=True):
        assert result.loss == pytest.approx(recorded["loss"], rel=RELATIVE, abs=0)


@pytest.mark.parametrize(("part", "home"), [("encoder", "context_encoder.vit."), ("predictor", "predictor.")])
def test_gradients(replay, part, home):
    expected = section(replay.vectors, f"step0.grad.{part}.")
    ours = section(replay.gradients, home)
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        close(ours[name], gradient, f"gradient of {part}.{name}")


@pytest.mark.parametrize(
    ("part", "home"),
    [
        ("encoder", "context_encoder.vit."),
        ("predictor", "predictor."),
        ("target_encoder", "target_encoder.encoder.vit."),
    ],
)
@pytest.mark.parametrize("which", ["first", "last"])
def test_weights_after_step(replay, part, home, which):
    step = 0 if which == "first" else len(replay.meta["steps"]) - 1
    expected = section(replay.vectors, f"after{step}.{part}.")
    ours = section(replay.after[step], home)
    assert ours.keys() == expected.keys()
    for name, weight in expected.items():
        close(ours[name], weight, f"{part}.{name} after step {step}")


def test_schedules_over_the_whole_run(replay):
    momentum = replay.model.target_encoder.momentum
    assert len(replay.meta["full_schedule"]) == replay.total
    for row in replay.meta["full_schedule"]:
        step = row["step"]
        assert replay.schedules.lr(step) == pytest.approx(row["lr"], rel=RELATIVE, abs=0)
        assert replay.schedules.weight_decay(step) == pytest.approx(row["weight_decay"], rel=RELATIVE, abs=0)
        assert momentum(step) == pytest.approx(row["momentum"], rel=RELATIVE, abs=0)


def test_rates_used_in_each_step(replay):
    for recorded, result in zip(replay.meta["steps"], replay.results, strict=True):
        used = (result.lr, result.weight_decay, result.momentum)
        assert used == pytest.approx((recorded["lr"], recorded["weight_decay"], recorded["momentum"]), rel=RELATIVE)


def test_without_the_prefix_of_ddp_they_load_too(replay, tmp_path):
    matched = load_starting_weights(replay.model, released_checkpoint(replay.vectors, tmp_path, prefix=""))
    assert matched == replay.matched
    ours = replay.model.target_encoder.encoder.vit.state_dict()
    assert all(torch.equal(ours[n], t) for n, t in section(replay.vectors, "init.encoder.").items())


def test_targets_are_normalised_without_trained_parameters(replay):
    tokens = torch.randn(2, 3, 8, dtype=torch.float64)
    centred = tokens - tokens.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(normalise_targets(tokens), expected, rtol=1e-12, atol=1e-12)
