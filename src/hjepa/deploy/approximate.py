"""Approximate nearest neighbours with usearch, for collections in which exact search takes too long."""

from pathlib import Path
from typing import Any

import numpy as np

from hjepa.deploy.similarity import Matches
from hjepa.errors import UserError

# Twice the connections and more candidates than usearch's defaults, which once found 88 % of the ten nearest of 2,000
# random vectors of 24 dimensions (tests/deploy/test_similarity.py): such vectors are the hardest to search.
THOROUGH = {"connectivity": 32, "expansion_add": 256, "expansion_search": 256}


def nearest_by_index(queries: np.ndarray, collection: np.ndarray, k: int, *, stored: Path | None = None) -> Matches:
    """Return about the ``k`` most similar vectors of each query [Q, F], by a graph over the collection [n, F].

    The graph is kept in ``stored``, if that is given, and built again when the vectors have changed.
    """
    index = _index(collection, stored)
    found = index.search(np.array(queries, dtype=np.float32), min(k, len(index)))
    keys, distances = np.atleast_2d(found.keys), np.atleast_2d(found.distances)
    return Matches((1.0 - distances).astype(np.float32), keys.astype(np.int64))


def _index(collection: np.ndarray, stored: Path | None) -> Any:
    try:
        from usearch.index import Index
    except ImportError:
        raise UserError("approximate search needs usearch: pip install 'hjepa[search]'") from None

    def empty() -> Any:
        return Index(ndim=collection.shape[1], metric="cos", dtype="f32", **THOROUGH)

    index = empty()
    readable = np.flatnonzero(np.isfinite(collection).all(1))
    if stored is not None and stored.is_file():
        try:
            index.load(str(stored))
        except (RuntimeError, ValueError):
            index = empty()
        if len(index) == len(readable) and _holds(index, collection, readable):
            return index
        index = empty()
    index.add(readable.astype(np.uint64), np.asarray(collection[readable], dtype=np.float32))
    if stored is not None:
        index.save(str(stored))
    return index


def _holds(index: Any, collection: np.ndarray, readable: np.ndarray) -> bool:
    """Return whether an index is of these vectors, by up to 64 of them."""
    for key in readable[:: max(1, len(readable) // 64)]:
        vector = index.get(int(key))
        if vector is None or not np.array_equal(np.asarray(vector).reshape(-1), collection[key]):
            return False
    return True
