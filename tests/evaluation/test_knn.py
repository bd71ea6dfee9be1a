"""The k-NN probe against an independent float64 implementation, and its choices."""

from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hjepa.errors import UserError
from hjepa.evaluation import knn
from hjepa.evaluation.knn import _predict


def naive_scores(
    train_x: np.ndarray, train_y: np.ndarray, query: np.ndarray, k: int, temperature: float, classes: int
) -> list[float]:
    """Class scores of one query, one neighbour at a time, in float64."""
    similar = [float(row @ query / (np.sqrt(row @ row) * np.sqrt(query @ query))) for row in train_x.astype(float)]
    scores = [0.0] * classes
    for index in sorted(range(len(similar)), key=lambda i: -similar[i])[:k]:
        scores[train_y[index]] += np.exp(similar[index] / temperature)
    return scores


def clusters(n: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three Gaussian classes in eight dimensions, class by class in turn."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(3, 8))
    y = np.arange(n) % 3
    return (centres[y] + spread * rng.normal(size=(n, 8))).astype(np.float32), y


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(8, 40),
    width=st.integers(2, 9),
    classes=st.integers(2, 4),
    k=st.integers(1, 7),
    temperature=st.sampled_from([0.02, 0.07, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_knn_equals_a_naive_float64_implementation(
    n: int, width: int, classes: int, k: int, temperature: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    train_y, test_y = np.arange(n) % classes, rng.integers(0, classes, 6)
    train_x, test_x = (rng.normal(size=(m, width)).astype(np.float32) for m in (n, 6))
    if k > n - max(round(0.1 * n), classes):
        return
    probe = knn(train_x, train_y, test_x, test_y, ks=(k,), temperature=temperature)
    assert probe.setting == {"k": k, "temperature": temperature}
    for query, label, correct in zip(test_x.astype(float), test_y, probe.correct, strict=True):
        scores = naive_scores(train_x, train_y, query, k, temperature, classes)
        first, second = sorted(scores)[::-1][:2]
        if first > second * 1.001:  # a tie may fall either way in float32
            assert correct == (int(np.argmax(scores)) == label)
    assert probe.accuracy == probe.correct.mean()


# One neighbour of class 7 at similarity 1, three of class 3 at 0.8: weight decides at k = 4.
NEAR = np.array([[1.0, 0.0], [0.8, 0.6], [0.8, 0.6], [0.8, 0.6], [-1.0, 0.0], [-1.0, 0.0]], dtype=np.float32)
CLASSES = np.array([7, 3, 3, 3, 7, 7])
QUERY = np.array([[5.0, 0.0]], dtype=np.float32)


@pytest.mark.parametrize(
    ("k", "temperature", "winner"),
    [
        (1, 1.0, 7),
        (4, 1.0, 3),  # e^1 = 2.72 against 3 e^0.8 = 6.68
        (4, 0.07, 7),  # e^(0.2 / 0.07) = 17.4 against 3
        (4, 0.001, 7),  # e^1000 would overflow
    ],
)
def test_k_and_temperature_weigh_the_neighbours(k: int, temperature: float, winner: int) -> None:
    probe = knn(NEAR, CLASSES, QUERY, np.array([winner]), ks=(k,), temperature=temperature)
    assert probe.accuracy == 1.0


def test_the_length_of_a_feature_does_not_matter() -> None:
    train_x, train_y = clusters(90, 0.6)
    test_x, test_y = clusters(60, 0.6, seed=1)
    lengths = np.random.default_rng(2).uniform(0.01, 100, size=(90, 1)).astype(np.float32)
    plain, scaled = (knn(x, train_y, test_x, test_y, ks=(5,)) for x in (train_x, train_x * lengths))
    assert plain.correct.tolist() == scaled.correct.tolist()


def test_the_chunk_does_not_change_the_result() -> None:
    train_x, train_y = clusters(300, 1.5)
    test_x, test_y = clusters(101, 1.5, seed=1)
    whole = knn(train_x, train_y, test_x, test_y, chunk=1000)
    for chunk in (1, 7, 100):
        part = knn(train_x, train_y, test_x, test_y, chunk=chunk)
        assert part.setting == whole.setting
        assert part.correct.tolist() == whole.correct.tolist()


def test_the_block_of_the_bank_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks smaller than k, a last one that is not full, and validation images in each of them."""
    train_x, train_y = clusters(300, 1.5)
    test_x, test_y = clusters(101, 1.5, seed=1)
    whole = knn(train_x, train_y, test_x, test_y)
    for block in (7, 64, 299):
        monkeypatch.setattr(import_module("hjepa.evaluation.knn"), "BLOCK", block)
        part = knn(train_x, train_y, test_x, test_y)
        assert part.setting == whole.setting
        assert part.correct.tolist() == whole.correct.tolist()


def test_k_is_the_best_on_the_validation_split() -> None:
    # Classes overlap widely and 30 % of the labels are wrong: one neighbour is a poor judge.
    train_x, train_y = clusters(900, 1.0)
    rng = np.random.default_rng(3)
    train_y = np.where(rng.random(900) < 0.3, rng.integers(0, 3, 900), train_y)
    test_x, test_y = clusters(900, 1.0, seed=1)
    chosen = knn(train_x, train_y, test_x, test_y)
    alone = {k: knn(train_x, train_y, test_x, test_y, ks=(k,)).accuracy for k in (1, 20)}
    assert chosen.setting["k"] in (10, 20, 50, 100, 200)
    assert chosen.accuracy == knn(train_x, train_y, test_x, test_y, ks=(int(chosen.setting["k"]),)).accuracy
    assert alone[20] > alone[1] + 0.1
    assert chosen.accuracy > alone[1] + 0.1


def test_the_choice_of_k_never_sees_the_test_labels() -> None:
    train_x, train_y = clusters(200, 1.2)
    test_x, test_y = clusters(100, 1.2, seed=1)
    wrong = (test_y + 1) % 3
    right, other = (knn(train_x, train_y, test_x, y) for y in (test_y, wrong))
    assert right.setting == other.setting
    assert not (right.correct & other.correct).any()


def test_every_k_of_one_search_equals_a_search_of_its_own() -> None:
    train_x, train_y = clusters(200, 1.5)
    queries, _ = clusters(50, 1.5, seed=1)
    bank, codes = torch.from_numpy(train_x), torch.from_numpy(train_y)
    ks = [1, 5, 20, 100]
    together = _predict(bank, codes, torch.from_numpy(queries), ks, 5.0, 3)
    alone = [_predict(bank, codes, torch.from_numpy(queries), [k], 5.0, 3)[0] for k in ks]
    assert together.tolist() == torch.stack(alone).tolist()


def test_k_larger_than_the_set_is_left_out() -> None:
    train_x, train_y = clusters(12, 0.1)
    assert knn(train_x, train_y, train_x, train_y, ks=(5, 200)).setting["k"] == 5
    with pytest.raises(UserError, match=r"50, 200.*\b9 training images.*\b9$"):
        knn(train_x, train_y, train_x, train_y, ks=(50, 200))
