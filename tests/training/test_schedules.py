"""Schedules as pure functions, against values by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hjepa.training.schedules import Cosine, EMAScheduler, WarmupCosine, half_life_images


def test_learning_rate_warms_up_linearly_then_falls_as_a_cosine():
    lr = WarmupCosine(start=0.0, peak=1.0, final=0.1, warmup_steps=10, total_steps=110)
    assert lr(0) == pytest.approx(0.1)
    assert lr(4) == pytest.approx(0.5)
    assert lr(9) == pytest.approx(1.0)
    assert lr(59) == pytest.approx(0.55)  # half of the cosine
    assert lr(109) == pytest.approx(0.1)
    assert lr(500) == pytest.approx(0.1)


def test_weight_decay_is_half_a_cosine():
    decay = Cosine(0.04, 0.4, total_steps=100)
    assert decay(49) == pytest.approx(0.22)
    assert decay(99) == pytest.approx(0.4)


@pytest.mark.parametrize(("kind", "middle"), [("linear", 0.95), ("cosine", 0.95), ("constant", 0.9)])
def test_momentum_kinds(kind, middle):
    momentum = EMAScheduler(0.9, 1.0, epochs=10, steps_per_epoch=10, kind=kind)
    assert momentum(0) == pytest.approx(0.9)
    assert momentum(50) == pytest.approx(middle)
    assert momentum(100) == pytest.approx(0.9 if kind == "constant" else 1.0)
    quarter = {"linear": 0.925, "cosine": 0.9 + 0.1 * (1 - math.cos(math.pi / 4)) / 2, "constant": 0.9}
    assert momentum(25) == pytest.approx(quarter[kind])


def test_momentum_is_held_during_its_warmup():
    momentum = EMAScheduler(0.9, 1.0, epochs=10, steps_per_epoch=10, warmup_epochs=5)
    assert [momentum(s) for s in (0, 25, 50)] == [0.9] * 3
    assert momentum(75) == pytest.approx(0.95)
    assert momentum(100) == 1.0


@given(
    base=st.floats(0, 1), final=st.floats(0, 1), epochs=st.integers(1, 50), per_epoch=st.integers(1, 50),
    hold=st.floats(0, 1), kind=st.sampled_from(["linear", "cosine", "constant"]), step=st.integers(0, 5000),
)  # fmt: skip
def test_momentum_stays_between_its_ends(base, final, epochs, per_epoch, hold, kind, step):
    momentum = EMAScheduler(base, final, epochs, per_epoch, hold * epochs, kind)
    assert min(base, final) - 1e-12 <= momentum(step) <= max(base, final) + 1e-12
    assert momentum(0) == pytest.approx(base, abs=1e-9)


def test_a_warmup_as_long_as_the_run_holds_the_momentum_throughout():
    """It was 1 from the first step on: a teacher that never moved."""
    momentum = EMAScheduler(0.9, 1.0, epochs=10, steps_per_epoch=10, warmup_epochs=10)
    assert [momentum(step) for step in (0, 50, 99, 100)] == [0.9] * 4


@pytest.mark.parametrize("bad", [{"base_value": 1.2}, {"final_value": -0.1}, {"kind": "step"}])
def test_impossible_momentum_is_refused(bad):
    with pytest.raises(ValueError, match="momentum"):
        EMAScheduler(**({"base_value": 0.9, "final_value": 1.0, "epochs": 1, "steps_per_epoch": 10} | bad))


def test_half_life_in_images():
    # 0.996 at batch 2,048: 173 steps, 0.35 million images (research notes, section 2).
    assert half_life_images(0.996, 2048) == pytest.approx(354_000, rel=0.01)
    assert half_life_images(1.0, 8) == math.inf
    assert half_life_images(0.0, 8) == 0.0
    assert half_life_images(0.5, 8) == pytest.approx(8)
