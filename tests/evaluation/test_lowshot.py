"""Low-shot classification on data whose answer is known."""

from importlib import import_module

import numpy as np
import pytest

from hjepa.errors import UserError
from hjepa.evaluation import lowshot
from hjepa.evaluation.lowshot import draw, refuse_scarce_labels
from hjepa.evaluation.protocol import bootstrap_interval, probe_interval


def blobs(n: int, seed: int, spread: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Four Gaussian classes in six dimensions."""
    y = np.arange(n) % 4
    centres = np.random.default_rng(99).normal(size=(4, 6))
    x = centres[y] + spread * np.random.default_rng(seed).normal(size=(n, 6))
    return x.astype(np.float32), y


def test_separable_classes_need_few_labels() -> None:
    probe = lowshot(*blobs(200, 0), *blobs(100, 1))
    assert probe.accuracy == 1.0
    assert probe.setting["shots"] == 10
    assert probe.setting["draws"] == 10


def test_more_labels_tell_more() -> None:
    sets = (*blobs(800, 0, spread=2.0), *blobs(400, 1, spread=2.0))
    assert lowshot(*sets, shots=2).accuracy < lowshot(*sets, shots=50).accuracy - 0.05


def test_only_the_drawn_labels_are_used() -> None:
    """Every label that no draw takes may be wrong."""
    train_x, train_y = blobs(400, 0, spread=1.0)
    test = blobs(100, 1, spread=1.0)
    drawn = np.concatenate([draw(train_y, 10, seed=0, number=number) for number in range(3)])
    other_x = np.full_like(train_x, 1e6)
    other_x[drawn] = train_x[drawn]
    before = lowshot(train_x, train_y, *test, draws=3)
    after = lowshot(other_x, train_y, *test, draws=3)
    assert (before.correct == after.correct).all()


def test_a_draw_has_each_class_equally_and_depends_on_seed_and_number_only() -> None:
    labels = np.array([3] * 30 + [7] * 50 + [9] * 12)
    rows = draw(labels, 10, seed=1, number=2)
    assert len(set(rows.tolist())) == 30
    assert np.unique(labels[rows], return_counts=True)[1].tolist() == [10, 10, 10]
    assert (rows == draw(labels, 10, seed=1, number=2)).all()
    assert (rows != draw(labels, 10, seed=1, number=3)).any()
    assert (rows != draw(labels, 10, seed=2, number=2)).any()


def test_the_interval_is_that_of_the_draws() -> None:
    """Five labels a draw vary more than a thousand test images do."""
    probe = lowshot(*blobs(400, 0, spread=1.5), *blobs(4000, 1, spread=1.5), shots=2)
    assert probe.draws is not None
    assert probe.draws.mean() == pytest.approx(probe.accuracy)
    low, high = probe_interval(probe)
    assert probe.draws.min() <= low < probe.accuracy < high <= probe.draws.max()
    of_images = bootstrap_interval(probe.correct)
    assert high - low > 1.5 * (of_images[1] - of_images[0])


def test_subsets_fitted_in_groups_are_those_fitted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = (*blobs(400, 0, spread=1.5), *blobs(200, 1, spread=1.5))
    together = lowshot(*sets, shots=7)
    monkeypatch.setattr(import_module("hjepa.evaluation.lowshot"), "TOGETHER", 5000)  # three or four subsets at a time
    groups = lowshot(*sets, shots=7)
    assert groups.setting == together.setting
    np.testing.assert_allclose(groups.draws, together.draws, atol=0.006)  # one image on the boundary


def test_a_class_with_too_few_images_is_refused() -> None:
    labels = np.array([0] * 20 + [1] * 9)
    with pytest.raises(UserError, match=r"^photos \(label\): class dog has 9 images\b.*\b10\b.*lowshot .*--protocols$"):
        refuse_scarce_labels(labels, "photos (label)", ["cat", "dog"])
    with pytest.raises(UserError, match=r"class 1 has (only )?9 images"):
        lowshot(np.zeros((29, 2), np.float32), labels, np.zeros((1, 2), np.float32), labels[:1])
