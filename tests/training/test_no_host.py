"""A step asks the device nothing: no operation of it hands a number to the host, and it can be replayed as recorded."""

import contextlib

import pytest
import torch
from conftest import tiny
from recorder import OperationRecorder
from runs import same, trainer_of, weights
from torch.utils._python_dispatch import TorchDispatchMode

from hjepa.training import adamw as optimizer
from hjepa.training.capture import WARM_UP
from hjepa.training.parameters import build_optimizer
from hjepa.training.rates import WINDOW
from hjepa.training.trainer import MicroBatch, Trainer

STEPS = 14
KINDS = {
    "adamw": {},
    "muon": {
        "optim": {"optimizer": "muon", "clip_gradient": 0.5},
        "loss": {"variance_covariance": 0.1, "pixel_targets": "gradients"},
        "model": {"levels": [[0, 1], [1, 2], [2, 1]]},
        "masking": {"contexts": 2},
    },
    "accumulated": {"optim": {"accumulate": 2, "weight_decay": 0.01, "final_weight_decay": 0.3}},
}


class NoQuestion(TorchDispatchMode):
    """Fails where the host asks for a number, or for a size that depends on numbers."""

    ASKING = ("_local_scalar_dense", "nonzero", "bincount", "masked_select", "_unique2", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        assert name not in self.ASKING, f"the step asks for {func}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_no_operation_of_a_step_asks_the_device(kind):
    trainer, batches, _ = trainer_of(tiny(**KINDS[kind]))
    trainer.train_step(next(batches))
    for _ in range(2):
        batch = next(batches)
        with NoQuestion():
            result = trainer.train_step(batch)
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoQuestion():
        bool(result.numbers[4])


class Elsewhere:
    """In place of accelerate, which knows no device without memory."""

    def prepare_model(self, model):
        return model

    def no_sync(self, _model):
        return contextlib.nullcontext()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_runs_on_a_device_that_has_no_numbers(kind, monkeypatch):
    """On torch's "meta" device tensors have shapes and nothing else, so whoever looks into one fails."""
    monkeypatch.setattr(optimizer, "adamw", lambda *_, **__: None)  # torch has no shapes for its fused kernel
    trainer, batches, _ = trainer_of(tiny(**KINDS[kind]))
    parts, settings = trainer.model.to("meta"), {"betas": (0.9, 0.95), "kind": "muon" if kind == "muon" else "adamw"}
    away = Trainer(
        parts,
        build_optimizer(parts, **settings),
        trainer.schedules,
        accelerator=Elsewhere(),
        objective=trainer.objective,
        clip_gradient=trainer.clip_gradient,
    )
    for _ in range(3):
        result = away.train_step([MicroBatch(*(t.to("meta") for t in batch)) for batch in next(batches)])
    assert away.step_at_most == 3
    with pytest.raises(NotImplementedError, match="no data"):
        result.loss  # noqa: B018
    with pytest.raises(NotImplementedError, match="no data"):
        away.step  # noqa: B018


def recorded(trainer: Trainer) -> Trainer:
    """Return a trainer of the same parts that records its operations and replays them."""
    recorder = OperationRecorder()
    twin = Trainer(
        trainer.model,
        trainer.optimizer,
        trainer.schedules,
        objective=trainer.objective,
        clip_gradient=trainer.clip_gradient,
        recorder=recorder,
    )
    twin.capturing, twin.recorder = True, recorder
    return twin


def numbers(trainer, batches, steps):
    return [trainer.train_step(next(batches)).numbers for _ in range(steps)]


@pytest.mark.parametrize("kind", ["muon", "accumulated"])
def test_a_replayed_step_computes_what_the_step_computes(kind):
    """Rates, masks and weights change from step to step: a number that a recording had frozen would show."""
    plain, batches, _ = trainer_of(tiny(**KINDS[kind]))
    twin, twin_batches, _ = trainer_of(tiny(**KINDS[kind]))
    twin = recorded(twin)
    expected, found = numbers(plain, batches, STEPS), numbers(twin, twin_batches, STEPS)
    assert twin.captured.recordings >= 1 and twin.recorder.replays >= 4, "nothing was replayed"
    assert torch.equal(torch.stack(found), torch.stack(expected))
    assert same(weights(twin.model), weights(plain.model))
    assert (twin.step, twin.skipped_steps) == (plain.step, plain.skipped_steps) == (STEPS, 0)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("capturing", [True, False])
def test_a_skipped_step_moves_nothing(kind, capturing):
    settings = {**KINDS[kind], "masking": {"sampler": "random", "min_context": 2, "num_targets": 1,
                "context_scale": [0.3, 0.3], "target_scale": [0.7, 0.7]}}  # fmt: skip
    trainer, batches, _ = trainer_of(tiny(**settings))
    trainer = recorded(trainer)
    trainer.capturing = capturing
    numbers(trainer, batches, WARM_UP + 2)
    assert trainer.recorder.replays == (2 if capturing else 0)
    state = [tensor.clone() for each in trainer.optimizer.state.values() for tensor in each.values()]
    before, step = weights(trainer.model), trainer.step
    (broken,) = next(batches)
    broken = broken._replace(images=torch.full_like(broken.images, float("nan")))
    for row in (1, 2):
        result = trainer.train_step([broken])
        assert not result.stepped and result.momentum is None and result.step == step
        assert (trainer.step, trainer.skipped_steps, trainer.skipped_in_a_row) == (step, row, row)
    assert same(weights(trainer.model), before)
    after = [tensor for each in trainer.optimizer.state.values() for tensor in each.values()]
    assert all(torch.equal(a, b) for a, b in zip(state, after, strict=True))
    again = trainer.train_step(next(batches))
    assert again.stepped and again.step == step + 1 and again.lr == trainer.schedules.lr(step)
    assert (trainer.skipped_steps, trainer.skipped_in_a_row) == (2, 0)


def test_rates_are_those_of_the_schedules_beyond_the_table_and_after_a_change():
    trainer, batches, _ = trainer_of(tiny(train={"length": 4 * WINDOW}))
    batch = next(batches)
    for step in (0, WINDOW - 1, WINDOW, 3 * WINDOW + 5):
        trainer.restore(step, 0, 0)
        result = trainer.train_step(batch)
        assert (result.lr, result.momentum) == (trainer.schedules.lr(step), trainer.model.target_encoder.momentum(step))
    trainer.model.target_encoder.momentum = lambda _step: 0.25
    assert trainer.train_step(batch).momentum == 0.25
    trainer.model.target_encoder.momentum = lambda _step: 1.5
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 1.5"):
        trainer.train_step(batch)


def test_the_host_knows_an_upper_bound_without_asking():
    trainer, batches, _ = trainer_of(tiny())
    assert trainer.step == 0
    (good,) = next(batches)
    broken = good._replace(images=torch.full_like(good.images, float("inf")))
    for batch in (good, broken, good):
        trainer.train_step([batch])
    with NoQuestion():
        assert (trainer.step_at_most, trainer.skipped_in_a_row_at_most) == (3, 3)
    assert (trainer.step, trainer.skipped_steps) == (2, 1)
    with NoQuestion():
        assert (trainer.step_at_most, trainer.skipped_in_a_row_at_most, trainer.step) == (2, 0, 2)


def test_what_cannot_be_recorded_runs_as_it_is():
    class Full(OperationRecorder):
        def record(self, function):
            super().record(function)  # it fails on the way, and gradients lie there
            for parameter in twin.optimizer.param_groups[0]["params"]:
                parameter.grad = torch.ones_like(parameter)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")

    plain, batches, _ = trainer_of(tiny())
    twin, twin_batches, _ = trainer_of(tiny())
    twin = Trainer(twin.model, twin.optimizer, twin.schedules, recorder=Full())
    twin.capturing = True
    expected, found = numbers(plain, batches, 8), numbers(twin, twin_batches, 8)
    assert twin.captured.given_up == "CUDA out of memory. Tried to allocate"
    assert torch.equal(torch.stack(found), torch.stack(expected))
