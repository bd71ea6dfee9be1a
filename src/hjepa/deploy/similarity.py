"""Exact nearest neighbours by cosine similarity, block by block, so that a collection need not fit into memory."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8192  # vectors: their similarities to a hundred queries fit into a processor's cache
GROUP = 32  # similarities whose largest one decides whether they are looked at


class Matches(NamedTuple):
    """The most similar vectors of each query, best first; fewer than asked for if there are no more."""

    similarities: np.ndarray  # float32 [Q, k]
    indices: np.ndarray  # int64 [Q, k]


def nearest(queries: np.ndarray, collection: np.ndarray, k: int, *, block: int = BLOCK) -> Matches:
    """Return the ``k`` vectors of ``collection`` [n, F] with the largest cosine similarity to each query [Q, F].

    Vectors that are not finite (unreadable images) are never found; a vector of zeros has the similarity 0.
    """
    wanted = F.normalize(torch.from_numpy(np.array(queries, dtype=np.float32)), dim=1)
    values = torch.empty(len(wanted), 0)
    places = torch.empty(len(wanted), 0, dtype=torch.int64)
    for start in range(0, len(collection), block):
        scores = _scores(wanted, collection[start : start + block])
        if places.shape[1] == k:
            new_values, new_places = _above(scores, values[:, -1:], k)
        else:
            new_values, new_places = scores.topk(min(k, scores.shape[1]), dim=1)
        values, places = torch.cat([values, new_values], 1), torch.cat([places, new_places + start], 1)
        values, order = values.topk(min(k, values.shape[1]), dim=1)
        places = places.gather(1, order)
    found = int(values.isfinite().sum(1).min()) if len(values) else 0
    return Matches(values[:, :found].numpy(), places[:, :found].numpy())


def pairs_above(vectors: np.ndarray, threshold: float, *, block: int = 1024) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs (i < j), int64 [p, 2], of vectors [n, F] that are at least so similar, and their similarities.

    All pairs are compared, so the time grows with the square of n.
    """
    whole = F.normalize(torch.from_numpy(np.array(vectors, dtype=np.float32)), dim=1)
    whole = whole.nan_to_num(0.0)  # a vector that is not finite resembles none
    for start in range(0, len(whole), block):
        scores = whole[start : start + block] @ whole[start:].T
        close = (scores >= threshold).triu(diagonal=1).nonzero()
        if len(close):
            yield (close + start).numpy(), scores[close[:, 0], close[:, 1]].numpy()


def _scores(queries: Tensor, block: np.ndarray) -> Tensor:
    """Return the cosine similarities [Q, b] of normalised queries and any vectors; -inf for those not finite."""
    vectors = torch.from_numpy(np.require(block, np.float32, ["C", "W"]))
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    scores = queries @ vectors.T
    scores *= lengths.clamp_min(torch.finfo(torch.float32).tiny).reciprocal()
    broken = ~lengths.isfinite()
    if broken.any():
        scores[:, broken] = -torch.inf
    return scores


def _above(scores: Tensor, least: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return similarities [Q, m] and places that contain all those above ``least`` [Q, 1], up to ``k`` of each query.

    After the first blocks few groups have any, and only these are sorted.
    """
    whole = scores.shape[1] // GROUP * GROUP
    grouped = scores[:, :whole].unflatten(1, (-1, GROUP))
    largest = grouped.amax(2)
    count = int((largest > least).sum(1).max()) if whole else 0
    rest_values, rest_places = scores[:, whole:], torch.arange(whole, scores.shape[1]).expand(len(scores), -1)
    if count:
        groups = largest.topk(count, dim=1).indices
        some = grouped.gather(1, groups[..., None].expand(-1, -1, GROUP)).flatten(1)
        places = (groups[..., None] * GROUP + torch.arange(GROUP)).flatten(1)
        rest_values, rest_places = torch.cat([some, rest_values], 1), torch.cat([places, rest_places], 1)
    values, order = rest_values.topk(min(k, rest_values.shape[1]), dim=1)
    return values, rest_places.gather(1, order)
