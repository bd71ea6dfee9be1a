"""A budget is kept on a machine whose pace changes, and no schedule jumps when the number of steps is corrected."""

import re
from itertools import pairwise

import pytest
import torch
from conftest import TINY, tiny
from hypothesis import given
from hypothesis import strategies as st
from runs import pictures, same

import hjepa
from hjepa.api import TrainingCallback
from hjepa.config import derive, load
from hjepa.errors import UserError
from hjepa.runs import budget as budgets
from hjepa.runs.budget import Budget
from hjepa.setup import build as building
from hjepa.setup.autoconfig import resolve_auto
from hjepa.setup.build import momentum_of, schedules_of
from hjepa.setup.timing import StepTime
from hjepa.training.horizon import Horizon
from hjepa.training.trainer import Trainer


@st.composite
def corrected(draw):
    """Return a horizon with several corrections, each at a step before the end of the one before."""
    horizon, step = Horizon(draw(st.integers(50, 2000))), 0
    for _ in range(draw(st.integers(1, 6))):
        if step + 2 >= horizon.total_steps:
            break
        step = draw(st.integers(step + 1, horizon.total_steps - 1))
        horizon = horizon.corrected(step, draw(st.integers(step + 1, 2 * horizon.total_steps)))
    return horizon


@given(corrected())
def test_the_position_goes_from_the_start_to_the_planned_end_and_never_back(horizon):
    positions = [horizon.position(step) for step in range(horizon.total_steps + 1)]
    assert positions[0] == 0.0 and positions[-1] == pytest.approx(horizon.planned_steps)
    assert all(before < after for before, after in pairwise(positions))


@given(corrected(), st.data())
def test_a_correction_changes_nothing_of_what_lies_before_it(horizon, data):
    step = data.draw(st.integers(horizon.corrections[-1][0] + 1, max(horizon.corrections[-1][0] + 1, 3000)))
    if step >= horizon.total_steps:
        with pytest.raises(ValueError, match="cannot end"):
            horizon.corrected(step, step)
        return
    longer = horizon.corrected(step, step + data.draw(st.integers(1, 5000)))
    assert [longer.position(s) for s in range(step + 1)] == [horizon.position(s) for s in range(step + 1)]
    assert longer.planned_steps == horizon.planned_steps


def test_without_a_correction_the_position_is_the_step_itself():
    assert [Horizon(7).position(step) for step in range(7)] == list(range(7))


@pytest.mark.parametrize("total", [150, 900])
def test_schedules_are_continuous_where_the_number_of_steps_was_corrected(total):
    settings = {"model": {"levels": [1, 2]}, "loss": {"variance_covariance": 0.2, "level_warmup": 0.7}}
    before = resolve_auto(tiny(train={"length": 400}, **settings), pictures())
    horizon = Horizon(400).corrected(100, total)
    changes = {"horizon.steps": (total, "test"), "horizon.corrections": (horizon.corrections, "test")}
    after = derive(before, changes)
    for old, new in zip(_schedules(before.config), _schedules(after.config), strict=True):
        largest = max(abs(old(s + 1) - old(s)) for s in range(399)) * max(1.0, 300 / (total - 100))
        assert max(abs(new(s + 1) - new(s)) for s in range(total - 1)) <= 1.001 * largest
        assert [new(s) for s in range(100)] == [old(s) for s in range(100)]
        assert new(total - 1) == pytest.approx(old(399), abs=1.001 * largest)


def _schedules(config):
    rates = schedules_of(config)
    deeper = lambda step: rates.level_weights(step)[1]  # noqa: E731
    return rates.lr, rates.weight_decay, rates.variance_covariance, momentum_of(config), deeper


@pytest.mark.parametrize(
    ("pace", "planned"),
    [
        (lambda _: 0.5, 0.5),  # as measured
        (lambda _: 1.0, 0.5),  # a neighbour from the start
        (lambda _: 0.3, 0.6),  # measured while there was one
        (lambda s: 0.5 if s < 120 else 1.1, 0.5),  # a neighbour who comes later
        (lambda s: 1.1 if s < 150 else 0.5, 1.1),  # and one who leaves
        (lambda s: 0.5 if s // 40 % 2 else 0.9, 0.5),  # comes and goes
    ],
)
def test_the_time_used_is_within_ten_per_cent_of_the_budget(monkeypatch, pace, planned):
    clock = {"now": 0.0}
    monkeypatch.setattr(budgets.time, "perf_counter", lambda: clock["now"])
    budget, step = Budget(seconds=180.0, started=0.0), 0
    total = int(180 / planned)
    while step < total:
        clock["now"] += pace(step)
        step += 1
        if budget.is_due(step, total):
            total = budget.fitting_steps(step, total)
    assert clock["now"] == pytest.approx(180.0, rel=0.1)


OPEN = TINY | {
    "model": TINY["model"] | {"levels": [0]},  # a budget chooses hjepa-tiny, whose levels are deeper than this encoder
    "train": {k: v for k, v in TINY["train"].items() if k != "length"} | {"checkpoint_every": 16},
}


@pytest.fixture
def slow_machine(monkeypatch):
    """A machine whose steps take half a second by its clock, and took a tenth when they were measured."""
    clock = {"now": 0.0, "pace": 0.5}
    take = Trainer.train_step

    def slowly(self, micro_batches):
        clock["now"] += clock["pace"]
        return take(self, micro_batches)

    monkeypatch.setattr(building, "time_steps", lambda *_: StepTime(0.1, 0, 0))
    monkeypatch.setattr(budgets.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(Trainer, "train_step", slowly)
    return clock


def test_every_correction_is_recorded_and_only_a_large_one_is_said(tmp_path, slow_machine):
    said = []

    class Notices(TrainingCallback):
        def on_notice(self, text):
            said.append(text)

        def on_line(self, line, total_steps):
            slow_machine["pace"] = 0.5 if line["step"] < 40 else 0.58

    run = hjepa.pretrain(pictures(), out=tmp_path / "run", budget="60s", callback=Notices(), **OPEN)
    corrections = [text for text in said if text.startswith("budget 60s: ")]
    assert re.search(r"^budget 60s: \d+ steps instead of 600\b", corrections[0])
    assert 1 <= len(corrections) < len(run.record["corrections"])


@pytest.mark.slow
def test_a_run_shortens_itself_and_can_be_repeated_from_its_own_configuration(tmp_path, slow_machine):
    run = hjepa.pretrain(pictures(), out=tmp_path / "run", budget="20s", **OPEN)
    assert slow_machine["now"] == pytest.approx(20.0, rel=0.1)
    record, text = run.record, (run.path / "config.yaml").read_text()
    assert record["status"] == "finished" and record["audit"]["verdict"] == "conforms"
    first, *_ = record["corrections"]
    assert first["step"] == 21 and first["steps_before"] == 200 and first["steps"] < 45
    assert re.search(rf"steps: {record['steps']}  # derived: 20s by the pace at step", text)
    assert load(text).config.horizon.corrections

    again = hjepa.pretrain(pictures(), out=tmp_path / "again", config=run.path / "config.yaml")
    assert again.record["steps"] == record["steps"] and "corrections" not in again.record
    for ours, theirs in zip(run.metrics, again.metrics, strict=True):
        assert [ours[k] for k in ("loss", "lr", "momentum")] == [theirs[k] for k in ("loss", "lr", "momentum")]


@pytest.mark.slow
def test_a_corrected_run_that_was_stopped_resumes_to_the_same_weights(tmp_path, slow_machine, monkeypatch):
    whole = hjepa.pretrain(pictures(), out=tmp_path / "whole", budget="20s", **OPEN)
    config = whole.path / "config.yaml"

    def die(session, result, waited):
        stop = kept(session, result, waited)
        if result.step == 33:
            raise RuntimeError("killed")
        return stop

    from hjepa.runs.session import Session

    kept = Session._after_step
    with monkeypatch.context() as patched:
        patched.setattr(Session, "_after_step", die)
        with pytest.raises(RuntimeError, match="killed"):
            hjepa.pretrain(pictures(), out=tmp_path / "cut", config=config)
    resumed = hjepa.pretrain(pictures(), out=tmp_path / "cut", resume=True)
    one, other = (torch.load(run.path / "checkpoints/last/training.pt", weights_only=True) for run in (whole, resumed))
    assert same(_tensors(one["optimizer"]), _tensors(other["optimizer"]))


def _tensors(state):
    return {f"{i}.{n}": v for i, each in state["state"].items() for n, v in each.items() if isinstance(v, torch.Tensor)}


@pytest.mark.parametrize("wrong", [[[5, 0.5], [5, 0.6]], [[7, 0.5], [5, 0.4]], [[99, 0.5]], [[5, 0.0]], [[0, 1.0]]])
def test_corrections_that_go_back_are_refused(wrong):
    with pytest.raises(UserError, match="each later than the one before, and a positive pace"):
        tiny(horizon={"length": "12 steps", "steps": 12, "corrections": wrong})
