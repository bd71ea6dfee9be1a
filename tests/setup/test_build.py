"""The parts of a run are made once, refused where they are made, and begin again after their time was measured."""

import json

import pytest
import torch
from conftest import TINY, tiny
from runs import pictures, same, weights

import hjepa
from hjepa.commands.plan import plan
from hjepa.errors import UserError
from hjepa.setup import build as building
from hjepa.setup.build import build
from hjepa.setup.timing import StepTime

# A short budget chooses hjepa-tiny, whose levels are deeper than this encoder.
BUDGET = TINY | {
    "model": TINY["model"] | {"levels": [0]},
    "train": {name: value for name, value in TINY["train"].items() if name != "length"},
}


@pytest.fixture
def made(monkeypatch):
    """Counts how often each part is made, in the real code."""
    counts = dict.fromkeys(("build_sampler", "build_batches", "build_model", "build_optimizer", "build_trainer"), 0)

    def counted(name):
        make = getattr(building, name)

        def count(*given, **named):
            counts[name] += 1
            return make(*given, **named)

        return count

    for name in counts:
        monkeypatch.setattr(building, name, counted(name))
    return counts


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_with_a_budget_makes_each_part_once(made, resume, tmp_path):
    hjepa.pretrain(pictures(), out=tmp_path / "run", budget="1s", **BUDGET)
    if resume:
        made.update(dict.fromkeys(made, 0))
        hjepa.pretrain(pictures(), out=tmp_path / "run", resume=True)
    assert set(made.values()) == {1}, made


@pytest.mark.parametrize(
    "settings",
    [
        {"model": {"initialisation": "mimetic", "levels": [1, 2]}, "optim": {"optimizer": "muon"}},
        {"train": {"precision": "float64"}, "model": {"initialisation": "xavier"}},
    ],
)
def test_after_its_time_was_measured_a_trainer_is_as_if_nothing_had_happened(settings):
    train = settings.get("train", {})
    measured = build(tiny(**settings | {"train": train | {"length": "1h"}}), pictures())
    steps = measured.resolved.config.horizon.steps
    fresh = build(tiny(**settings | {"train": train | {"length": steps}}), pictures())
    assert measured.step_time and not fresh.step_time
    assert same(weights(measured.trainer.model), weights(fresh.trainer.model))
    for parts in (measured, fresh):
        stream = parts.batches(0)
        for _ in range(3):
            parts.trainer.train_step(next(stream))
    assert same(weights(measured.trainer.model), weights(fresh.trainer.model))
    assert measured.trainer.step == fresh.trainer.step == 3


def test_a_plan_with_a_budget_says_one_time_per_step(made, monkeypatch):
    """It was measured twice, and two numbers were printed."""
    monkeypatch.setattr(building, "time_steps", lambda *_: StepTime(0.25, 7, 2))  # stands for a clock
    resolved, found = plan(pictures(), budget="1min", **BUDGET)
    assert resolved.origin["horizon.steps"] == "derived: 1min at 0.25 s per step, measured"
    assert (found.seconds_per_step, found.steps, found.context_tokens, found.target_tokens) == (0.25, 240, 7, 2)
    assert set(made.values()) == {1}, made


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"masking": {"min_context": 15}}, "masking.min_context"),
        ({"optim": {"batch_size": 8, "accumulate": 3}}, "optim.batch_size = 8 cannot be split"),
        ({"optim": {"batch_size": 4, "accumulate": 4}}, "at least 2 images"),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_built(settings, part, made):
    with pytest.raises(UserError, match=part):
        build(tiny(**settings), pictures())
    assert made["build_model"] == 0


def test_the_masks_of_the_record_are_those_of_the_run(tmp_path):
    """masks.json is counted on the sampler that the run draws from."""
    run = hjepa.pretrain(pictures(), out=tmp_path / "run", **TINY)
    parts = build(tiny(), pictures())
    drawn = parts.sampler.sample(0, 8).context.shape[1]
    lowest, highest = json.loads((run.path / "masks.json").read_text())["context_tokens_range"]
    assert lowest <= drawn <= highest
    assert torch.equal(next(parts.batches(0))[0].context_index, torch.from_numpy(parts.sampler.sample(0, 8).context))
