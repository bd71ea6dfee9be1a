"""Weighted k-nearest-neighbour classification of frozen features."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.errors import UserError
from hjepa.evaluation.features import Probe, train_val_split


def knn(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    ks: Sequence[int] = (1, 5, 10, 20, 50, 100, 200),
    temperature: float = 0.07,
    seed: int = 0,
    chunk: int = 512,
) -> Probe:
    """Classify ``test_x`` ``[n, F]`` by the cosine-nearest rows of ``train_x``.

    A neighbour of similarity ``s`` votes for its class with weight ``exp(s / temperature)``, 0.07 as
    in Wu et al. (2018), "Unsupervised feature learning via non-parametric instance discrimination",
    and in DINO (Caron et al., 2021). ``k`` is chosen on a validation split of the training set (the
    smallest of the best); values larger than the rest of it are not tried. ``chunk`` queries
    are compared at a time. Raises ``UserError`` when no ``k`` fits or the labels cannot be split.
    """
    train_idx, val_idx = train_val_split(train_y, seed=seed)
    possible = sorted({k for k in ks if 1 <= k <= len(train_idx)})
    if not possible:
        raise UserError(
            f"k = {', '.join(map(str, ks))}: too large for {len(train_idx)} training images, use 1 to {len(train_idx)}"
        )
    classes, codes = np.unique(train_y, return_inverse=True)
    bank, bank_codes = _unit_rows(train_x), torch.from_numpy(codes)

    def predict(rows: np.ndarray | slice, queries: Tensor, ks: list[int]) -> np.ndarray:
        votes = [
            _predict(bank[rows], bank_codes[rows], part, ks, temperature, len(classes))
            for part in torch.split(queries, chunk)
        ]
        winners: np.ndarray = classes[torch.cat(votes, dim=1).numpy()]
        return winners  # [len(ks), queries]

    chosen = possible[0]
    if len(possible) > 1:
        accuracies = (predict(train_idx, bank[val_idx], possible) == train_y[val_idx]).mean(axis=1)
        chosen = possible[int(accuracies.argmax())]
    correct = predict(slice(None), _unit_rows(test_x), [chosen])[0] == test_y
    return Probe(float(correct.mean()), {"k": chosen, "temperature": temperature}, correct)


def _unit_rows(x: np.ndarray) -> Tensor:
    return F.normalize(torch.from_numpy(np.asarray(x, dtype=np.float32)), dim=1)


def _predict(bank: Tensor, codes: Tensor, queries: Tensor, ks: list[int], temperature: float, classes: int) -> Tensor:
    """Return the winning class, int64 ``[len(ks), queries]``, for ascending ``ks`` in one search."""
    similarity, index = (queries @ bank.T).topk(ks[-1], dim=1)
    # Relative to the nearest neighbour: the same winner, and no overflow at small temperatures.
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
    neighbours = codes[index]
    score = torch.zeros(len(queries), classes)
    winners, counted = [], 0
    for k in ks:
        score.scatter_add_(1, neighbours[:, counted:k], weights[:, counted:k])
        winners.append(score.argmax(dim=1))
        counted = k
    return torch.stack(winners)
