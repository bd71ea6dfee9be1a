"""Logistic regression in torch has the optimum of scikit-learn's, whatever the features look like."""

import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hjepa.data.sources import open_source
from hjepa.evaluation import logistic
from hjepa.evaluation.linear import _in_blocks, _moments, fit_standardised

RNG = np.random.default_rng
Arrays = tuple[np.ndarray, np.ndarray]


def reference(x: np.ndarray, y: np.ndarray, c: float) -> tuple[StandardScaler, LogisticRegression]:
    """Fit scikit-learn in float64, much closer to the optimum than by default."""
    scaler = StandardScaler().fit(x.astype(np.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large C: thousands of iterations may not be enough for it
        model = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(scaler.transform(x.astype(np.float64)), y)
    return scaler, model


def objective(weights: np.ndarray, intercepts: np.ndarray, x: np.ndarray, y: np.ndarray, c: float) -> float:
    """Mean cross-entropy plus penalty in float64, written out: ``weights`` [F, K], or [F, 1] for two classes."""
    scores = x @ weights + intercepts
    if weights.shape[1] == 1:
        scores = np.concatenate([np.zeros_like(scores), scores], 1)
    top = scores.max(1)
    loss = np.log(np.exp(scores - top[:, None]).sum(1)) + top - scores[np.arange(len(y)), y]
    return float(loss.mean() + (weights**2).sum() / (2 * c * len(y)))


def check(train: Arrays, test: Arrays, c: float) -> None:
    """Compare objective and accuracy with scikit-learn's (0.1 points, or one image); labels are 0..K-1."""
    (x, y), (test_x, test_y) = train, test
    scaler, model = reference(x, y, c)
    ours = fit_standardised(x[None], y, [c], 500)
    weights, intercepts = ours.models.weights[0, 0].double().numpy(), ours.models.intercepts[0, 0].double().numpy()
    if weights.shape[1] == 2:  # scikit-learn has one weight vector: the difference
        weights, intercepts = weights[:, 1:] - weights[:, :1], intercepts[1:] - intercepts[:1]
    standardised = scaler.transform(x.astype(np.float64))
    best = objective(model.coef_.T, model.intercept_, standardised, y, c)
    found = objective(weights, intercepts, standardised, y, c)
    assert bool(ours.models.converged.all())
    assert found <= best + 2e-5
    assert float(ours.models.objective[0, 0]) == pytest.approx(found, abs=2e-6)
    expected = (model.predict(scaler.transform(test_x.astype(np.float64))) == test_y).mean()
    assert abs((ours.predict(test_x)[0, 0] == test_y).mean() - expected) <= max(0.001, 1 / len(test_y)) + 1e-9


def digits(classes: int = 10) -> tuple[Arrays, Arrays]:
    """Handwritten digits of 8 x 8 pixels; some of their pixels are always black."""
    x, y = load_digits(return_X_y=True)
    x, y = x[y < classes].astype(np.float32), y[y < classes]
    return (x[::2], y[::2]), (x[1::2], y[1::2])


@pytest.mark.parametrize("c", [0.001, 0.1, 10.0])
def test_digits(c: float) -> None:
    train, test = digits()
    assert (train[0].std(0) == 0).any()
    check(train, test, c)


@pytest.mark.parametrize("c", [0.001, 1.0, 100.0])
def test_two_classes(c: float) -> None:
    check(*digits(2), c)


def test_separable_classes_and_hardly_any_penalty() -> None:
    train, test = digits(4)
    check(train, test, 1e4)
    assert (fit_standardised(train[0][None], train[1], [1e4], 500).predict(train[0])[0, 0] == train[1]).all()


def test_columns_of_very_different_scale_and_place() -> None:
    """The scale of a column does not matter, nor does a mean ten thousand times its deviation."""
    (x, y), (test_x, _) = digits()
    scales = 10.0 ** RNG(0).integers(-18, 18, x.shape[1])
    plain = fit_standardised(x[None], y, [0.1], 500).predict(test_x)
    scaled = [(part * scales).astype(np.float32) for part in (x, test_x)]
    assert (fit_standardised(scaled[0][None], y, [0.1], 500).predict(scaled[1]) == plain).mean() > 0.999
    places = np.where(np.arange(x.shape[1]) % 2, 2.0**16, -(2.0**16))
    moved = [(part + places).astype(np.float32) for part in (x, test_x)]  # exact: digits are whole numbers below 17
    assert (fit_standardised(moved[0][None], y, [0.1], 500).predict(moved[1]) == plain).mean() > 0.999


def test_a_constant_column_changes_nothing() -> None:
    (x, y), (test_x, _) = digits()
    plain = fit_standardised(x[None], y, [0.1], 500)
    for value in (0.0, 0.1, 1e20):
        wider = [np.column_stack([part, np.full(len(part), value)]).astype(np.float32) for part in (x, test_x)]
        with_column = fit_standardised(wider[0][None], y, [0.1], 500)
        assert (with_column.predict(wider[1]) == plain.predict(test_x)).all()
        assert torch.isfinite(with_column.models.weights).all()


def test_columns_are_standardised_as_by_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constant columns keep their scale, whatever the blocks; large means lose no digits."""
    monkeypatch.setattr(import_module("hjepa.evaluation.linear"), "BLOCK", 300)  # row by row
    x = RNG(0).normal(size=(49, 300))
    x[:, :100] = RNG(1).normal(size=100)
    x[:, 200:] += 1e4
    x = x.astype(np.float32)
    scaler = StandardScaler().fit(x.astype(np.float64))
    mean, scale = _moments(torch.from_numpy(x)[None])
    assert (scale[0, 0, :100] == 1).all()
    np.testing.assert_allclose(mean[0, 0].numpy(), scaler.mean_, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(scale[0, 0].numpy(), scaler.scale_, rtol=1e-9)
    np.testing.assert_allclose(
        _in_blocks(torch.from_numpy(x)[None], mean, scale)[0].numpy(), scaler.transform(x.astype(np.float64)), atol=1e-6
    )


@settings(max_examples=40, deadline=None)
@given(
    classes=st.integers(2, 5),
    per_class=st.integers(1, 12),
    width=st.integers(1, 80),
    c=st.sampled_from([0.001, 0.1, 1.0, 30.0]),
    separation=st.sampled_from([0.0, 0.3, 3.0]),
    seed=st.integers(0, 10_000),
)
def test_few_images_per_class(classes: int, per_class: int, width: int, c: float, separation: float, seed: int) -> None:
    """Fewer rows than columns, or more; one image in a class, or classes of different size."""
    rng = RNG(seed)
    y = np.repeat(np.arange(classes), rng.integers(1, per_class + 1, classes))
    x = (separation * rng.normal(size=(classes, width))[y] + rng.normal(size=(len(y), width))).astype(np.float32)
    check((x, y), (x, y), c)


def test_all_problems_together_are_each_alone() -> None:
    """Three training sets, three values of C; wide ones are rotated."""
    for width in (5, 60):
        x = RNG(0).normal(size=(3, 40, width)).astype(np.float32)
        y = np.arange(40) % 3
        x[:, :, 0] += y
        cs = [0.001, 0.1, 1.0]
        together = fit_standardised(x, y, cs, 500)
        assert together.models.converged.all()
        for s in range(3):
            for m, c in enumerate(cs):
                alone = fit_standardised(x[s : s + 1], y, [c], 500)
                assert float(alone.models.objective) == pytest.approx(float(together.models.objective[s, m]), abs=1e-6)
                torch.testing.assert_close(
                    alone.models.weights[0, 0], together.models.weights[s, m], atol=0.02, rtol=0.02
                )


def test_the_same_problem_has_the_same_answer_bit_for_bit() -> None:
    (x, y), _ = digits()
    first, second = (fit_standardised(x[None], y, [0.01, 1.0], 500).models for _ in range(2))
    assert torch.equal(first.weights, second.weights)


def test_blocks_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, y), (test_x, _) = digits()
    whole = fit_standardised(x[None], y, [0.01, 1.0], 500)
    monkeypatch.setattr(logistic, "BLOCK", 1000)
    monkeypatch.setattr(import_module("hjepa.evaluation.linear"), "BLOCK", 1000)
    parts = fit_standardised(x[None], y, [0.01, 1.0], 500)
    torch.testing.assert_close(parts.models.objective, whole.models.objective, atol=1e-6, rtol=0)
    assert (parts.predict(test_x) == whole.predict(test_x)).mean() > 0.999


def test_converged_is_said_of_the_optimum_only() -> None:
    """Stopped early, or without tolerance left, a model is not called converged; the others beside it are."""
    (x, y), _ = digits()
    assert fit_standardised(x[None], y, [1.0], 5).models.converged.tolist() == [[False]]
    passes = fit_standardised(x[None], y, [0.001], 500).models.passes
    both = fit_standardised(x[None], y, [0.001, 100.0], passes + 1).models
    assert both.converged.tolist() == [[True, False]]
    assert fit_standardised(x[None], y, [0.001, 100.0], 500).models.converged.all()


def test_a_wide_problem_without_preconditioner_has_the_same_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "WIDEST_GRAM", 8)
    check(*digits(), 0.1)


def test_labels_of_any_kind_come_back() -> None:
    (x, y), (test_x, _) = digits(3)
    names = np.array([10, 200, 3000])
    named = fit_standardised(x[None], names[y], [0.1], 500).predict(test_x)
    assert (named == names[fit_standardised(x[None], y, [0.1], 500).predict(test_x)]).all()


def test_a_subset_with_a_single_class_predicts_it() -> None:
    """Of ten thousand images to choose C on, none may be of a rare class."""
    ours = fit_standardised(digits()[0][0][None, :20], np.full(20, 7), [0.1, 1.0], 500)
    assert ours.models.converged.all()
    assert (ours.predict(digits()[1][0][:5]) == 7).all()


@pytest.mark.slow
@pytest.mark.parametrize("c", [0.001, 0.1])
def test_pixels_of_scenes(c: float) -> None:
    source = open_source("scenes:test", 1)
    x = np.stack([np.asarray(source[i], dtype=np.float32)[::4, ::4].reshape(-1) for i in range(2000)])
    y = np.unique(next(iter(source.labels.values()))[:2000], return_inverse=True)[1]
    check((x[:1000], y[:1000]), (x[1000:], y[1000:]), c)


@pytest.mark.slow
@pytest.mark.skipif(not Path("data/cifar10.npz").is_file(), reason="CIFAR-10 is not here")
@pytest.mark.parametrize("c", [0.001, 0.1, 10.0])
def test_pixels_of_photographs(c: float) -> None:
    """Neighbouring pixels are nearly equal: the hardest problem for L-BFGS without preconditioner."""
    sets = []
    for name, count in (("train", 3000), ("test", 2000)):
        source = open_source(f"cifar10:{name}", 3)
        images = np.stack([np.asarray(source[i]) for i in range(count)]).astype(np.float32)
        halves = images.reshape(count, 16, 2, 16, 2, 3).mean((2, 4)).reshape(count, -1)
        sets.append((halves, source.labels["label"][:count]))
    check(sets[0], sets[1], c)
