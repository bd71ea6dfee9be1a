"""The step: accumulation, skipped steps, clipping, rates, and who may touch the target encoder."""

import copy
import math

import pytest
import torch
from commands import flat
from conftest import TINY, tiny
from runs import pictures, same, trainer_of, weights

import hjepa
from hjepa.training.parameters import build_optimizer
from hjepa.training.rates import Schedules
from hjepa.training.trainer import MicroBatch, Trainer


def test_accumulating_4_x_16_equals_1_x_64():
    source_args = {"optim": {"batch_size": 64}, "train": {"precision": "float64"}}
    one, one_batches, _ = trainer_of(tiny(**source_args))
    four_args = {"optim": {"batch_size": 64, "accumulate": 4}, "train": {"precision": "float64"}}
    four, four_batches, _ = trainer_of(tiny(**four_args))
    seen = {"one": [], "four": []}
    for name, trainer in (("one", one), ("four", four)):
        trainer.optimizer.register_step_pre_hook(
            lambda optimizer, *_, name=name: seen[name].append(
                [p.grad.clone() for g in optimizer.param_groups for p in g["params"]]
            )
        )
    for _ in range(3):
        a, b = one.train_step(next(one_batches)), four.train_step(next(four_batches))
        assert a.loss == pytest.approx(b.loss, rel=1e-12)
        assert a.momentum == b.momentum
    assert len(seen["one"]) == len(seen["four"]) == 3
    for a, b in zip(seen["one"], seen["four"], strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-14)
    for name, tensor in weights(one.model).items():
        torch.testing.assert_close(tensor, weights(four.model)[name], rtol=1e-9, atol=1e-12)


def test_activation_checkpointing_keeps_less_and_changes_no_number():
    kept, after = {}, {}
    for switch in ("off", "on"):
        sections = {"train": {"activation_checkpointing": switch}, "optim": {"batch_size": 16}}
        trainer, batches, _ = trainer_of(tiny(**sections))
        sizes = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        for _ in range(3):
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                trainer.train_step(next(batches))
        kept[switch], after[switch] = sum(sizes), weights(trainer.model)
    assert same(after["on"], after["off"])
    # What is computed again in the backward pass is packed by checkpointing itself, not by us.
    assert kept["on"] < 0.5 * kept["off"]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_step_with_an_infinite_gradient_moves_nothing(value):
    trainer, batches, _ = trainer_of(tiny())
    trainer.train_step(next(batches))
    weight = trainer.model.predictor.predictor_proj.weight
    handle = weight.register_hook(lambda grad: grad.index_fill(0, torch.tensor([0]), value))
    before, moments = weights(trainer.model), copy.deepcopy(flat(trainer.optimizer.state_dict()["state"]))
    result = trainer.train_step(next(batches))
    assert not result.stepped and result.momentum is None
    assert (trainer.step, trainer.skipped_steps) == (1, 1)
    assert same(weights(trainer.model), before)
    after = flat(trainer.optimizer.state_dict()["state"])
    assert moments and after.keys() == moments.keys()
    assert all(torch.equal(tensor, moments[name]) for name, tensor in after.items())
    handle.remove()
    again = trainer.train_step(next(batches))
    assert again.stepped
    assert again.lr == result.lr and again.momentum == trainer.model.target_encoder.momentum(1)
    assert all(p.grad is None for p in trainer.model.parameters())


def scaled_trainer(clip: float | None, scale: float = 1024.0):
    """Return a trainer with a real gradient scaler, as fp16 on a GPU has, here on the CPU."""
    plain, batches, config = trainer_of(tiny())
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    trainer = Trainer(
        plain.model,
        build_optimizer(plain.model, betas=config.optim.betas),
        Schedules(lr=lambda _: 1e-3, weight_decay=lambda _: 0.0),
        clip_gradient=clip,
        scaler=scaler,
    )
    return trainer, batches, scaler


def test_clipping_happens_after_unscaling():
    trainer, batches, _ = scaled_trainer(clip=0.01)
    norms = []
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: norms.append(
            math.sqrt(sum(float(p.grad.double().square().sum()) for g in optimizer.param_groups for p in g["params"]))
        )
    )
    reference, reference_batches, _ = trainer_of(tiny())
    batch = next(batches)
    expected = reference.train_step(next(reference_batches)).gradient_norm
    result = trainer.train_step(batch)
    # Reported: the true norm, not the scaled one. Applied: exactly the limit.
    assert result.gradient_norm == pytest.approx(expected, rel=1e-4)
    assert result.gradient_norm > 0.01
    assert norms == [pytest.approx(0.01, rel=1e-3)]


def test_a_gradient_below_the_limit_is_not_clipped():
    trainer, batches, _ = trainer_of(tiny(optim={"clip_gradient": 1e6}))
    free, free_batches, _ = trainer_of(tiny())
    trainer.train_step(next(batches))
    free.train_step(next(free_batches))
    assert same(weights(trainer.model), weights(free.model))


def test_an_overflow_under_the_scaler_skips_the_teacher_and_lowers_the_scale():
    trainer, batches, scaler = scaled_trainer(clip=None)
    trainer.train_step(next(batches))
    handle = trainer.model.predictor.predictor_proj.weight.register_hook(lambda grad: grad * math.inf)
    before = weights(trainer.model)
    result = trainer.train_step(next(batches))
    handle.remove()
    assert not result.stepped
    assert trainer.step == 1
    assert same(weights(trainer.model), before)
    assert scaler.get_scale() == 512.0
    assert trainer.train_step(next(batches)).stepped


def test_rates_of_a_step_are_those_of_that_step():
    trainer, batches, _ = trainer_of(tiny(optim={"weight_decay": 0.01, "final_weight_decay": 0.3}))
    used = []
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append([(g["lr"], g["weight_decay"]) for g in optimizer.param_groups])
    )
    for step in range(4):
        result = trainer.train_step(next(batches))
        lr, decay = trainer.schedules.lr(step), trainer.schedules.weight_decay(step)
        assert used[-1] == [(lr, decay), (lr, 0.0)]
        assert (result.lr, result.weight_decay) == (lr, decay)
    assert len({str(rates) for rates in used}) == 4


def test_evaluation_never_moves_the_teacher():
    trainer, batches, _ = trainer_of(tiny())
    trainer.train_step(next(batches))
    before = weights(trainer.model)
    trainer.model.eval()
    with torch.no_grad():
        for _ in range(3):
            trainer.model(*next(batches)[0])
    trainer.model.train()
    assert same(weights(trainer.model), before)
    assert not trainer.model.target_encoder.training


def test_an_optimizer_with_target_parameters_is_refused():
    trainer, _, _ = trainer_of(tiny())
    optimizer = torch.optim.AdamW(trainer.model.parameters())
    with pytest.raises(
        ValueError, match=r"the optimizer holds \d+ parameters of the target encoder \(first: encoder\."
    ):
        Trainer(trainer.model, optimizer, trainer.schedules)


def test_float64_steps_are_float64_throughout():
    trainer, batches, _ = trainer_of(tiny(train={"precision": "float64"}))
    result = trainer.train_step(next(batches))
    (level,) = result.forward.levels
    values = (level.predictions, level.targets, level.cells, result.forward.pooled)
    assert {tensor.dtype for tensor in values} == {torch.float64}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float64}


def test_bf16_computes_products_in_bf16_and_keeps_float32_weights():
    trainer, batches, _ = trainer_of(tiny(train={"precision": "bf16"}))
    formats = []
    trainer.model.context_encoder.vit.blocks[0].attn.qkv.register_forward_hook(lambda *a: formats.append(a[2].dtype))
    result = trainer.train_step(next(batches))
    assert formats == [torch.bfloat16]
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert result.forward.levels[0].targets.dtype == torch.float32
    exact, exact_batches, _ = trainer_of(tiny())
    assert result.loss == pytest.approx(exact.train_step(next(exact_batches)).loss, rel=0.05)


def test_the_residual_stream_stays_in_float32_under_bf16():
    """In bfloat16 it cost seven points of k-NN on Fashion-MNIST (docs/decisions/0007), and no loss showed it."""
    trainer, batches, _ = trainer_of(tiny(train={"precision": "bf16"}))
    model, formats = trainer.model, []
    for blocks in (
        model.context_encoder.vit.blocks,
        model.target_encoder.encoder.vit.blocks,
        model.predictor.predictor_blocks,
    ):
        for block in blocks:
            block.register_forward_hook(lambda _, inputs, output: formats.append((inputs[0].dtype, output.dtype)))
    trainer.train_step(next(batches))
    assert len(formats) >= 3 and set(formats) == {(torch.float32, torch.float32)}


def test_fused_and_plain_attention_give_the_same_step():
    losses = {}
    for kind in ("fused", "plain"):
        trainer, batches, _ = trainer_of(tiny(train={"attention": kind, "precision": "float64"}))
        losses[kind] = [trainer.train_step(next(batches)).loss for _ in range(3)]
    assert losses["fused"] == pytest.approx(losses["plain"], rel=1e-10)


def test_micro_batches_carry_what_the_model_needs():
    _, batches, config = trainer_of(tiny(optim={"accumulate": 2}))
    pieces = next(batches)
    assert len(pieces) == 2
    for piece in pieces:
        assert isinstance(piece, MicroBatch)
        assert piece.images.shape == (config.optim.batch_size // 2, 3, 16, 16)
        assert piece.images.dtype == torch.float32


@pytest.mark.parametrize("steps", [3, 6])
def test_the_last_line_has_a_rank_wherever_it_falls(tmp_path, steps):
    """The queue is filled before every line, the one of the last step too."""
    train = TINY["train"] | {"length": steps, "log_every": 100}
    run = hjepa.pretrain(pictures(), out=tmp_path / "run", **(TINY | {"train": train}))
    assert [line["step"] for line in run.metrics] == [steps]
    assert run.metrics[-1]["effective_rank"] > 1.0
    assert "nan" not in str(run.verdict) and "wait" not in run.verdict.next_step
