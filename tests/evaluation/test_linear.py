"""The linear probe on data whose answer is known."""

from importlib import import_module

import numpy as np
import pytest

from hjepa.errors import UserError
from hjepa.evaluation import linear

RNG = np.random.default_rng


def blobs(n: int, seed: int, spread: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Four Gaussian classes in six dimensions, named 10, 20, 30, 40."""
    y = np.arange(n) % 4
    centres = RNG(99).normal(size=(4, 6))
    x = centres[y] + spread * RNG(seed).normal(size=(n, 6))
    return x.astype(np.float32), 10 * (y + 1)


def test_separable_classes_are_told_apart() -> None:
    probe = linear(*blobs(200, 0), *blobs(200, 1))
    assert probe.accuracy == 1.0
    assert probe.correct.all()
    assert probe.setting["converged"] is True


def test_shuffled_labels_give_chance() -> None:
    train_x, train_y = blobs(800, 0)
    test_x, test_y = blobs(1000, 1)
    probe = linear(train_x, RNG(2).permutation(train_y), test_x, RNG(3).permutation(test_y))
    assert 0.19 < probe.accuracy < 0.31  # 25 % by chance


def test_features_are_standardised() -> None:
    """The class sits in a column a million times smaller than the noise beside it."""
    y = np.arange(400) % 2
    x = np.stack([1e3 * RNG(0).normal(size=400), 1e-3 * (y + 0.1 * RNG(1).normal(size=400))], axis=1)
    x = x.astype(np.float32)
    assert linear(x[:200], y[:200], x[200:], y[200:]).accuracy > 0.98


def test_c_is_the_best_on_the_validation_split() -> None:
    """Each of 450 columns tells a little: a weak penalty learns the noise, a strong one their sum."""
    y = np.arange(2000) % 2
    x = (RNG(0).normal(size=(2000, 450)) + 0.12 * y[:, None]).astype(np.float32)
    sets = (x[:1000], y[:1000], x[1000:], y[1000:])
    probe = linear(*sets, cs=(10.0, 1e-3))
    assert probe.setting["C"] == 1e-3
    assert probe.accuracy == linear(*sets, cs=(1e-3,)).accuracy
    assert probe.accuracy > linear(*sets, cs=(10.0,)).accuracy


def test_the_choice_of_c_never_sees_the_test_labels() -> None:
    train_x, train_y = blobs(120, 0, spread=1.5)
    test_x, test_y = blobs(120, 1, spread=1.5)
    wrong = test_y % 40 + 10
    right, other = (linear(train_x, train_y, test_x, y) for y in (test_y, wrong))
    assert right.setting == other.setting
    assert not (right.correct & other.correct).any()


def test_all_training_rows_are_used_in_the_last_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sweep on 8 rows the result is still that of a fit on all of them."""
    sets = (*blobs(400, 0, spread=1.5), *blobs(400, 1, spread=1.5))
    monkeypatch.setattr(import_module("hjepa.evaluation.linear"), "SWEEP_ROWS", 8)
    swept = linear(*sets)
    alone = linear(*sets, cs=(float(swept.setting["C"]),))
    assert swept.correct.tolist() == alone.correct.tolist()


def test_the_callers_features_are_left_as_they_were() -> None:
    train, test = blobs(80, 0), blobs(80, 1)
    before = train[0].copy(), test[0].copy()
    linear(*train, *test)
    np.testing.assert_array_equal(train[0], before[0])
    np.testing.assert_array_equal(test[0], before[1])


def test_one_class_is_refused() -> None:
    x, y = blobs(20, 0)
    with pytest.raises(UserError, match=r"the training set .*one class"):
        linear(x, np.zeros_like(y), x, y)
