"""Nearest neighbours equal those of brute force in float64, whatever the sizes and blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hjepa.deploy.approximate import nearest_by_index
from hjepa.deploy.similarity import nearest, pairs_above


def cosines(queries: np.ndarray, collection: np.ndarray) -> np.ndarray:
    """Return [Q, n] in float64; -inf for vectors that are not finite, 0 for zeros."""
    a, b = queries.astype(np.float64), collection.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None]
    scores = np.divide(a @ b.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    scores[:, ~np.isfinite(b).all(1)] = -np.inf
    return scores


def vectors(seed: int, count: int, width: int, *, broken: bool = False) -> np.ndarray:
    random = np.random.default_rng(seed)
    found = random.standard_normal((count, width)).astype(np.float32) * random.lognormal(size=(count, 1))
    found += 2 * random.standard_normal(width)  # as of encoders: all in one direction
    if broken:
        found[random.random(count) < 0.3] = np.nan
        found[random.random(count) < 0.1] = 0
    return found.astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000), queries=st.integers(1, 5), count=st.integers(1, 400), width=st.integers(1, 40),
    k=st.integers(1, 30), block=st.integers(1, 300), broken=st.booleans(),
)  # fmt: skip
def test_nearest_equals_brute_force(seed, queries, count, width, k, block, broken):
    wanted, collection = vectors(seed, queries, width), vectors(seed + 1, count, width, broken=broken)
    scores = cosines(wanted, collection)
    readable = int(np.isfinite(scores[0]).sum())
    found = nearest(wanted, collection, k, block=block)
    assert found.similarities.shape == found.indices.shape == (queries, min(k, readable))
    best = -np.sort(-scores, axis=1)[:, : min(k, readable)]
    np.testing.assert_allclose(found.similarities, best, atol=2e-6)  # the scores, because equal ones have no order
    np.testing.assert_allclose(np.take_along_axis(scores, found.indices, 1), best, atol=2e-6)
    assert all(len(set(row)) == len(row) for row in found.indices.tolist())


def test_a_file_that_is_mapped_is_searched_and_not_changed(tmp_path):
    collection = vectors(0, 1000, 16)
    np.save(tmp_path / "v.npy", collection)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    found = nearest(collection[5:6], mapped, 3, block=100)
    assert found.indices[0, 0] == 5
    assert np.array_equal(np.load(tmp_path / "v.npy"), collection)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 120), threshold=st.floats(-1, 1), block=st.integers(1, 50))
def test_pairs_equal_brute_force(seed, count, threshold, block):
    collection = vectors(seed, count, 6)
    scores = cosines(collection, collection)
    found = {}
    for pairs, similarities in pairs_above(collection, threshold, block=block):
        found |= {(int(a), int(b)): float(s) for (a, b), s in zip(pairs, similarities, strict=True)}
    for first in range(count):
        for second in range(first + 1, count):
            if abs(scores[first, second] - threshold) > 1e-5:
                assert ((first, second) in found) == (scores[first, second] > threshold)
    assert all(scores[pair] == pytest.approx(value, abs=2e-6) for pair, value in found.items())


def test_pairs_leave_out_what_is_not_finite():
    collection = vectors(0, 6, 4)
    collection[2] = np.nan
    found = [(*pair, value) for p, s in pairs_above(collection, -2.0) for pair, value in zip(p, s, strict=True)]
    assert len(found) == 15  # of which those with it have the similarity 0
    assert [value for first, second, value in found if 2 in (first, second)] == [0.0] * 5


def test_the_index_finds_almost_what_is_exact_and_is_kept(tmp_path):
    collection = vectors(1, 2000, 24)
    collection[7] = np.nan
    wanted = vectors(2, 50, 24)
    exact = nearest(wanted, collection, 10)
    stored = tmp_path / "v.npy.usearch"
    for _ in range(2):
        found = nearest_by_index(wanted, collection, 10, stored=stored)
        same = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact.indices, found.indices, strict=True)])
        assert same > 0.9
        np.testing.assert_allclose(found.similarities[:, 0], exact.similarities[:, 0], atol=1e-2)
        written = stored.stat().st_mtime_ns
    other = collection[::-1].copy()
    found = nearest_by_index(other[3:4], other, 1, stored=stored)  # built again, for other vectors
    assert found.indices.item() == 3 and stored.stat().st_mtime_ns != written
