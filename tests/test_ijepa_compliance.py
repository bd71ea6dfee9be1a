"""The published requirements of I-JEPA (arXiv:2301.08243 and its released settings), a test each.

Where the order of events matters it is observed in the real training loop, not in a copy of it.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny
from runs import pictures, same, trainer_of, weights

from hjepa.config import read_recipe, resolve
from hjepa.masking import MaskSettings, MultiBlockSampler
from hjepa.models.levels import normalise_targets
from hjepa.models.positions import sincos_2d
from hjepa.setup.autoconfig import resolve_auto
from hjepa.setup.build import momentum_of
from hjepa.training.schedules import EMAScheduler


def released():
    return resolve([read_recipe("ijepa-code")]).config


# ---- the target encoder -------------------------------------------------------------------------


def test_ema_schedule_is_linear():
    momentum = EMAScheduler(base_value=0.996, final_value=1.0, epochs=300, steps_per_epoch=100)
    total = 30_000
    for step in (0, 1, 299, 7_500, 15_000, 22_500, 29_999, 30_000):
        assert momentum(step) == pytest.approx(0.996 + 0.004 * step / total, abs=1e-15)
    differences = [momentum(s + 1) - momentum(s) for s in range(0, total, 500)]
    assert max(differences) - min(differences) < 1e-15
    assert momentum(total + 1_000) == 1.0


def test_ema_schedule_of_the_released_recipe_starts_at_0_996_and_ends_at_1():
    ema = {"momentum": released().ema.momentum, "final_momentum": released().ema.final_momentum}
    resolved = resolve_auto(tiny(ema=ema), pictures())
    momentum = momentum_of(resolved.config)
    assert released().ema.kind == "linear"
    assert momentum(0) == 0.996
    assert momentum(resolved.config.horizon.steps) == 1.0


def test_target_encoder_starts_bit_equal_to_the_context_encoder():
    trainer, _, _ = trainer_of(tiny())
    assert same(weights(trainer.model.target_encoder.encoder), weights(trainer.model.context_encoder))


def test_target_encoder_shares_no_memory_with_the_context_encoder():
    trainer, _, _ = trainer_of(tiny())
    ours = {p.data_ptr() for p in trainer.model.context_encoder.parameters()}
    assert not ours & {p.data_ptr() for p in trainer.model.target_encoder.parameters()}


def test_target_encoder_is_frozen():
    trainer, batches, _ = trainer_of(tiny())
    trainer.train_step(next(batches))
    for parameter in trainer.model.target_encoder.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None


def test_target_encoder_stays_in_evaluation_mode():
    trainer, batches, _ = trainer_of(tiny())
    trainer.model.train()
    trainer.train_step(next(batches))
    assert not any(m.training for m in trainer.model.target_encoder.modules())
    assert all(m.training for m in trainer.model.context_encoder.modules())


def test_target_update_follows_the_formula_with_the_new_weights():
    trainer, batches, _ = trainer_of(tiny())
    for _ in range(3):
        before = weights(trainer.model.target_encoder.encoder)
        result = trainer.train_step(next(batches))
        student, m = weights(trainer.model.context_encoder), result.momentum
        for name, tensor in weights(trainer.model.target_encoder.encoder).items():
            expected = m * before[name].double() + (1 - m) * student[name].double()
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-8)


def test_order_of_a_step_is_forward_backward_optimizer_ema():
    trainer, batches, _ = trainer_of(tiny(optim={"accumulate": 2}))
    events = []
    model = trainer.model
    model.target_encoder.register_forward_hook(lambda *_: events.append("target forward"))
    model.context_encoder.register_forward_hook(lambda *_: events.append("context forward"))
    model.predictor.predictor_proj.weight.register_hook(lambda _: events.append("backward"))
    trainer.optimizer.register_step_pre_hook(lambda *_: events.append("optimizer step"))
    teacher, student = next(
        (t, s)
        for t, s in zip(model.target_encoder.parameters(), model.context_encoder.parameters(), strict=True)
        if s.requires_grad
    )
    update = model.target_encoder.update

    def watched_update(context_encoder, momentum):
        events.append("ema")
        at_update.append((teacher.clone(), student.clone()))
        update(context_encoder, momentum)

    at_update: list = []
    model.target_encoder.update = watched_update
    for _ in range(2):
        before = student.clone()
        trainer.train_step(next(batches))
        assert not torch.equal(at_update[-1][1], before), "the average takes the weights after the optimizer step"
    micro = ["target forward", "context forward", "backward"]
    assert events == (micro * 2 + ["optimizer step", "ema"]) * 2


def test_momentum_is_applied_once_per_optimizer_step_under_accumulation():
    trainer, batches, _ = trainer_of(tiny(optim={"accumulate": 4}))
    calls = []
    update = trainer.model.target_encoder.update
    trainer.model.target_encoder.update = lambda c, m: (calls.append(m), update(c, m))
    for _ in range(3):
        trainer.train_step(next(batches))
    assert calls == [trainer.model.target_encoder.momentum(step) for step in range(3)]


def test_momentum_advances_every_step_not_every_epoch():
    trainer, batches, _ = trainer_of(tiny())
    used = [trainer.train_step(next(batches)).momentum for _ in range(5)]
    assert len(set(used)) == 5
    assert used == sorted(used)


# ---- gradients ----------------------------------------------------------------------------------


def test_no_gradient_reaches_the_targets():
    trainer, batches, _ = trainer_of(tiny())
    (batch,) = next(batches)
    out = trainer.model(*batch)
    (level,) = out.levels
    assert level.predictions.requires_grad
    assert not any(tensor.requires_grad for tensor in (level.targets, level.cells, out.pooled))


def test_the_loss_gives_no_gradient_to_hidden_pixels_through_the_context():
    """Only visible patches reach the predictions: changing a hidden patch changes no prediction."""
    trainer, batches, _ = trainer_of(tiny())
    (batch,) = next(batches)
    images = batch.images.clone().requires_grad_(True)
    trainer.model(images, batch.context_index, batch.target_index).levels[0].predictions.sum().backward()
    per_patch = F.avg_pool2d(images.grad.abs().sum(1, keepdim=True), 4).flatten(1)  # [B, N]
    seen = torch.zeros_like(per_patch, dtype=torch.bool).scatter_(1, batch.context_index, True)
    assert (per_patch[~seen] == 0).all()
    assert (per_patch[seen] > 0).all()


def test_only_encoder_and_predictor_are_optimized():
    trainer, _, _ = trainer_of(tiny())
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    trained = {
        id(p)
        for part in (trainer.model.context_encoder, trainer.model.predictor)
        for p in part.parameters()
        if p.requires_grad
    }
    assert held == trained


def test_biases_and_one_dimensional_parameters_have_no_weight_decay_and_the_mask_token_has():
    trainer, batches, _ = trainer_of(tiny(optim={"weight_decay": 0.05, "final_weight_decay": 0.05}))
    trainer.train_step(next(batches))
    decays = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        if id(parameter) in decays:
            expected = 0.0 if parameter.ndim == 1 or "bias" in name else pytest.approx(0.05)
            assert decays[id(parameter)] == expected, name
    assert decays[id(trainer.model.predictor.mask_token)] > 0


# ---- targets and predictions --------------------------------------------------------------------


def test_targets_are_the_normalised_output_of_the_target_encoder_on_the_whole_image():
    trainer, batches, _ = trainer_of(tiny())
    (batch,) = next(batches)
    (out,) = trainer.model(*batch).levels
    whole = trainer.model.target_encoder(batch.images)  # [B, N, D]
    expected = F.layer_norm(whole, whole.shape[-1:])
    for b in range(batch.images.shape[0]):
        for k in range(batch.target_index.shape[1]):
            torch.testing.assert_close(out.targets[b, k], expected[b, batch.target_index[b, k]])


def test_target_normalisation_has_no_trained_parameters():
    tokens = torch.randn(3, 5, 16)
    normalised = normalise_targets(tokens)
    torch.testing.assert_close(normalised.mean(-1), torch.zeros(3, 5), atol=1e-6, rtol=0)
    torch.testing.assert_close(normalised.var(-1, unbiased=False), torch.ones(3, 5), atol=1e-4, rtol=0)


def test_every_target_block_is_predicted_on_its_own():
    """Changing one block's positions leaves the other blocks' predictions as they were."""
    trainer, batches, _ = trainer_of(tiny())
    (batch,) = next(batches)
    other = batch.target_index.clone()
    other[:, 0] = (other[:, 0] + 1) % 16
    with torch.no_grad():
        a = trainer.model(*batch).levels[0].predictions
        b = trainer.model(batch.images, batch.context_index, other).levels[0].predictions
    torch.testing.assert_close(a[:, 1:], b[:, 1:])
    assert not torch.allclose(a[:, 0], b[:, 0])


def test_loss_is_smooth_l1_over_all_target_tokens():
    trainer, batches, _ = trainer_of(tiny())
    (batch,) = next(batches)
    with torch.no_grad():
        (out,) = trainer.model(*batch).levels
    error = (out.predictions - out.targets).double()
    expected = torch.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5).mean()
    assert trainer.train_step([batch]).loss == pytest.approx(float(expected), rel=1e-5)


def test_the_paper_recipe_minimises_the_squared_distance():
    assert resolve([read_recipe("ijepa-paper")]).config.loss.kind == "l2"
    trainer, batches, _ = trainer_of(tiny(loss={"kind": "l2"}))
    (batch,) = next(batches)
    with torch.no_grad():
        (out,) = trainer.model(*batch).levels
    expected = float((out.predictions - out.targets).double().square().mean())
    assert trainer.train_step([batch]).loss == pytest.approx(expected, rel=1e-5)


def test_hidden_patches_never_enter_a_block_of_the_context_encoder():
    trainer, batches, _ = trainer_of(tiny())
    (batch,) = next(batches)
    lengths = []
    for block in trainer.model.context_encoder.vit.blocks:
        block.register_forward_hook(lambda _m, inputs, _o: lengths.append(inputs[0].shape[1]))
    trainer.model(*batch)
    assert lengths == [batch.context_index.shape[1]] * 2
    assert lengths[0] < 16


def test_there_is_no_class_token():
    trainer, _, _ = trainer_of(tiny())
    assert trainer.model.context_encoder.vit.cls_token is None
    assert trainer.model.context_encoder(torch.zeros(2, 3, 16, 16)).shape == (2, 16, 32)


def test_positions_are_fixed_sine_cosine_tables_on_any_grid():
    trainer, batches, _ = trainer_of(tiny())
    encoder = trainer.model.context_encoder
    before = encoder.vit.pos_embed.clone()
    trainer.train_step(next(batches))
    assert torch.equal(encoder.vit.pos_embed, before)
    assert not trainer.model.predictor.predictor_pos_embed.requires_grad
    table = sincos_2d(8, (3, 5))
    for row in range(3):
        for column in range(5):
            expected = [f(p / 10000 ** (i / 2)) for p in (column, row) for f in (math.sin, math.cos) for i in range(2)]
            torch.testing.assert_close(table[row * 5 + column], torch.tensor(expected, dtype=torch.float64))
    assert encoder(torch.zeros(1, 3, 24, 8)).shape == (1, 12, 32)


# ---- masks and settings -------------------------------------------------------------------------


def test_masks_have_one_context_and_four_target_blocks_of_the_published_sizes():
    masking = released().masking
    assert (masking.num_targets, masking.target_scale, masking.target_aspect, masking.context_scale) == (
        4, (0.15, 0.2), (0.75, 1.5), (0.85, 1.0),
    )  # fmt: skip
    masks = MultiBlockSampler((14, 14), MaskSettings(), seed=0).sample(0, 32)
    assert masks.context.shape[0] == 32
    assert masks.targets.shape[:2] == (32, 4)
    shares = [MultiBlockSampler((14, 14), seed=s).sample(0, 2).targets.shape[2] / 196 for s in range(40)]
    assert min(shares) > 0.12 and max(shares) < 0.23
    assert 0.15 < sum(shares) / len(shares) < 0.2


def test_context_and_targets_never_overlap():
    sampler = MultiBlockSampler((8, 8), seed=3)
    for step in range(20):
        masks = sampler.sample(step, 16)
        for context, targets in zip(masks.context, masks.targets, strict=True):
            assert not set(context.tolist()) & set(targets.ravel().tolist())


def test_every_image_of_a_batch_has_masks_of_its_own():
    masks = MultiBlockSampler((14, 14), seed=0).sample(0, 64)
    assert len({tuple(row.ravel()) for row in masks.targets}) > 60


def test_released_settings():
    config = released()
    assert config.image_size == (224, 224) and config.patch_size == 14
    assert (config.model.width, config.model.depth, config.model.heads) == (1280, 32, 16)
    assert (config.model.predictor_width, config.model.predictor_depth) == (384, 12)
    optim = config.optim
    assert (optim.batch_size, optim.start_lr, optim.lr, optim.final_lr) == (2048, 2e-4, 1e-3, 1e-6)
    assert (optim.weight_decay, optim.final_weight_decay, optim.betas) == (0.04, 0.4, (0.9, 0.999))
    assert optim.clip_gradient is None
    assert config.train.length == "300 epochs"
    assert optim.warmup * 300 == pytest.approx(40, abs=1e-4)
    assert config.augment.crop_scale == (0.3, 1.0) and config.augment.flip == 0.0


def test_initialisation_is_truncated_normal_without_depth_rescaling():
    trainer, _, _ = trainer_of(tiny(model={"width": 128, "heads": 4, "depth": 4}))
    blocks = trainer.model.context_encoder.vit.blocks
    for block in blocks:
        for part in (block.attn.proj, block.mlp.fc2, block.attn.qkv):
            weight = part.weight.detach()
            assert float(weight.std()) == pytest.approx(0.02, rel=0.05)
            assert float(weight.abs().max()) <= 2.0
        assert float(block.mlp.fc1.bias.detach().abs().max()) == 0.0
    first, last = (float(blocks[i].mlp.fc2.weight.detach().std()) for i in (0, -1))
    assert first == pytest.approx(last, rel=0.05)


def test_evaluation_uses_the_target_encoder_averaged_over_tokens(tmp_path):
    from hjepa.models.frozen import FrozenEncoder, encoder_card

    trainer, batches, config = trainer_of(tiny(ema={"momentum": 0.5}))
    trainer.train_step(next(batches))
    target = copy.deepcopy(trainer.model.target_encoder.encoder)
    card = encoder_card(target, {"mean": config.data.mean, "std": config.data.std}, {})
    images = torch.rand(2, 3, 16, 16)
    features = FrozenEncoder(target, card)(images)
    expected = trainer.model.target_encoder((images - 0.5) / 0.25)
    torch.testing.assert_close(features.tokens, expected)
    torch.testing.assert_close(features.pooled, expected.mean(1))
