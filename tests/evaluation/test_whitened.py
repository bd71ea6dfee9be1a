"""k-NN on whitened features: what it sees that cosine similarity does not, and its choices."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from hjepa.errors import UserError
from hjepa.evaluation import knn, whitened_knn


def drowned(n: int, seed: int, nuisance: float = 30.0) -> tuple[np.ndarray, np.ndarray]:
    """Classes along two narrow axes, beside four wide ones that say nothing; all six mixed by one rotation."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    angle = 2 * np.pi * y / 3
    narrow = 1.5 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.3 * rng.normal(size=(n, 2))
    x = np.concatenate([nuisance * rng.normal(size=(n, 4)), narrow], 1)
    mixed = x @ np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0]
    return mixed.astype(np.float32), y


def test_narrow_axes_count_as_much_as_wide_ones():
    (train_x, train_y), (test_x, test_y) = drowned(600, 1), drowned(300, 2)
    assert knn(train_x, train_y, test_x, test_y).accuracy < 0.6
    assert whitened_knn(train_x, train_y, test_x, test_y).accuracy > 0.75


def test_it_is_knn_on_what_scikit_learn_whitens():
    (train_x, train_y), (test_x, test_y) = drowned(300, 1), drowned(90, 2)
    probe = whitened_knn(train_x, train_y, test_x, test_y, components=(4,))
    assert probe.setting["components"] == 4
    mean, std = train_x.mean(0), train_x.std(0)
    axes = PCA(4, whiten=True, svd_solver="full").fit((train_x - mean) / std)
    by_hand = [axes.transform((x - mean) / std) for x in (train_x, test_x)]
    expected = knn(by_hand[0], train_y, by_hand[1], test_y)
    np.testing.assert_array_equal(probe.correct, expected.correct)


def test_the_number_of_axes_is_chosen_on_training_images():
    """Classes lie along the last axes: fewer would miss them. Wrong test labels change nothing about the choice."""
    (train_x, train_y), (test_x, test_y) = drowned(600, 1), drowned(300, 2)
    probe = whitened_knn(train_x, train_y, test_x, test_y, components=(2, 4, 6))
    assert probe.setting["components"] == 6
    assert whitened_knn(train_x, train_y, test_x, 2 - test_y, components=(2, 4, 6)).setting == probe.setting


def test_more_axes_than_there_are_is_all_of_them():
    (train_x, train_y), (test_x, test_y) = drowned(30, 1), drowned(9, 2)
    assert whitened_knn(train_x, train_y, test_x, test_y).setting["components"] == 6
    wide = np.random.default_rng(0).normal(size=(30, 500)).astype(np.float32)
    assert whitened_knn(wide, train_y, wide[:9], test_y).setting["components"] == 26  # 27 images to fit


def test_one_class_is_refused():
    x, y = drowned(30, 1)
    with pytest.raises(UserError, match="one class"):
        whitened_knn(x, 0 * y, x, y)
