"""Levels that come in from below: a pure function of the step, in the step, in the log, and through a resume."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from commands import last_training, last_weights, metrics
from conftest import TINY, tiny
from hypothesis import given
from hypothesis import strategies as st
from runs import pictures, trainer_of

import hjepa
from hjepa.setup.build import build
from hjepa.setup.plan import plan_of
from hjepa.training.health import judged_level
from hjepa.training.schedules import LevelWeights

THREE = {"model": {"levels": [0, 1, 2]}, "loss": {"level_weights": [2, 1, 1], "level_warmup": 0.5}}


def test_each_deeper_level_rises_in_its_part_of_the_warmup():
    weights = LevelWeights((2.0, 1.0, 1.0), warmup_steps=40)
    assert weights(0) == (1.0, 0.0, 0.0)
    assert weights(10) == pytest.approx((2 / 2.5, 0.5 / 2.5, 0.0))
    assert weights(20) == pytest.approx((2 / 3, 1 / 3, 0.0))
    assert weights(30) == pytest.approx((2 / 3.5, 1 / 3.5, 0.5 / 3.5))
    assert weights(40) == weights(10_000) == LevelWeights((2.0, 1.0, 1.0))(0) == (0.5, 0.25, 0.25)


@given(
    weights=st.lists(st.floats(0.1, 10), min_size=2, max_size=5), warmup=st.floats(0, 100), step=st.floats(0, 200)
)  # fmt: skip
def test_they_sum_to_one_and_a_level_is_whole_before_the_next_begins(weights, warmup, step):
    now = LevelWeights(tuple(weights), warmup)(step)
    assert sum(now) == pytest.approx(1)
    risen = [share / now[0] * weights[0] / whole for share, whole in zip(now, weights, strict=True)]
    for below, above in pairwise(risen):
        assert -1e-9 <= above <= below + 1e-9 <= 1 + 2e-9
        assert above < 1e-9 or below > 1 - 1e-9


def test_verdicts_are_about_the_deepest_level_that_has_all_its_weight():
    schedule = LevelWeights((8.0, 1.0, 1.0), warmup_steps=40)
    assert [judged_level(schedule(step), schedule(100)) for step in (0, 19, 20, 39, 40, 99)] == [0, 0, 1, 1, 2, 2]
    assert judged_level((0.25, 0.75, 0.0), (0.25, 0.75, 0.0)) == 1
    assert judged_level((0.0, 1.0), (0.0, 1.0)) == 1


def test_a_plan_says_how_long_levels_take_to_come_in():
    assert plan_of(build(tiny(**THREE), pictures())).level_warmup_steps == 6  # half of twelve


def test_the_first_step_is_that_of_the_first_level_alone():
    trainer, batches, _ = trainer_of(tiny(**THREE))
    (batch,) = next(batches)
    with torch.no_grad():
        losses = [float(F.smooth_l1_loss(level.predictions, level.targets)) for level in trainer.model(*batch).levels]
    heads = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: heads.append(trainer.model.predictor.predictor_proj.weight.grad.abs().sum(1) > 0)
    )
    assert trainer.train_step([batch]).loss == pytest.approx(losses[0], rel=1e-5)
    assert heads[0].tolist() == [True] * 48 + [False] * 64
    for _ in range(4):
        trainer.train_step(next(batches))
    assert heads[1].tolist() == [True] * 80 + [False] * 32
    assert heads[4].all()


@pytest.mark.slow
def test_a_resumed_run_has_the_weights_of_an_undisturbed_one(tmp_path):
    settings = TINY | {"model": TINY["model"] | THREE["model"], "loss": THREE["loss"]}
    settings["train"] = TINY["train"] | {"keep_checkpoints": 3}
    whole = hjepa.pretrain(pictures(), out=tmp_path / "whole", **settings)
    assert [line["level_weights"] for line in metrics(whole.path)][-1] == [0.5, 0.25, 0.25]
    assert metrics(whole.path)[0]["level_weights"] == pytest.approx([2 / 3, 1 / 3, 0])  # step 3 of 6
    early = tmp_path / "early"
    hjepa.pretrain(pictures(), out=early, **settings)
    (early / "checkpoints/last").unlink()
    (early / "checkpoints/last").symlink_to("step-00000005")
    resumed = hjepa.pretrain(pictures(), out=early, resume=True, **settings)
    ours, theirs = last_weights(early), last_weights(whole.path)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert last_training(early)["optimizer"].keys() == last_training(whole.path)["optimizer"].keys()
    assert [line["loss"] for line in resumed.metrics] == [line["loss"] for line in whole.metrics]
