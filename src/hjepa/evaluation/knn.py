"""Weighted k-nearest-neighbour classification of frozen features."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.errors import UserError
from hjepa.evaluation.features import Probe, probe_device, train_val_split

BLOCK = 2**17
"""Rows of the bank that queries are compared with at a time: similarities take 268 MB."""


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
    device: torch.device | None = None,
) -> Probe:
    """Classify ``test_x`` ``[n, F]`` by the cosine-nearest rows of ``train_x``.

    A neighbour of similarity ``s`` votes for its class with weight ``exp(s / temperature)``, 0.07 as
    in Wu et al. (2018), "Unsupervised feature learning via non-parametric instance discrimination",
    and in DINO (Caron et al., 2021). ``k`` is chosen on a validation split of the training set (the
    smallest of the best); values larger than the rest of it are not tried. ``chunk`` queries
    are compared at a time, on ``device`` (default: CPU). Raises ``UserError`` when no ``k`` fits or the labels
    cannot be split.
    """
    train_idx, val_idx = train_val_split(train_y, seed=seed)
    possible = sorted({k for k in ks if 1 <= k <= len(train_idx)})
    if not possible:
        raise UserError(
            f"k = {', '.join(map(str, ks))}: too large for {len(train_idx)} training images, use 1 to {len(train_idx)}"
        )
    classes, codes = np.unique(train_y, return_inverse=True)
    where = probe_device(device)
    bank, bank_codes = _unit_rows(train_x, where), torch.from_numpy(codes).to(where)

    def predict(queries: Tensor, ks: list[int], hidden: Tensor | None = None) -> np.ndarray:
        votes = [
            _predict(bank, bank_codes, part, ks, temperature, len(classes), hidden)
            for part in torch.split(queries, chunk)
        ]
        winners: np.ndarray = classes[torch.cat(votes, dim=1).cpu().numpy()]
        return winners  # [len(ks), queries]

    chosen = possible[0]
    if len(possible) > 1:
        held_out = torch.from_numpy(val_idx).to(where)
        accuracies = (predict(bank[held_out], possible, held_out) == train_y[val_idx]).mean(axis=1)
        chosen = possible[int(accuracies.argmax())]
    correct = predict(_unit_rows(test_x, where), [chosen])[0] == test_y
    return Probe(float(correct.mean()), {"k": chosen, "temperature": temperature}, correct)


def _unit_rows(x: np.ndarray, device: torch.device) -> Tensor:
    return F.normalize(torch.from_numpy(np.asarray(x, dtype=np.float32)).to(device), dim=1)


def _predict(
    bank: Tensor,
    codes: Tensor,
    queries: Tensor,
    ks: list[int],
    temperature: float,
    classes: int,
    hidden: Tensor | None = None,
) -> Tensor:
    """Return the winning class, int64 ``[len(ks), queries]``, for ascending ``ks`` in one search.

    The rows ``hidden`` of the bank are no neighbours: leaving them out costs less than a copy of the others.
    """
    similarity, index = _nearest(bank, queries, ks[-1], hidden)
    # Relative to the nearest neighbour: the same winner, and no overflow at small temperatures.
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
    neighbours = codes[index]
    # In float64, so that the order in which a card adds them decides nothing.
    score = torch.zeros(len(queries), classes, dtype=torch.float64, device=bank.device)
    winners, counted = [], 0
    for k in ks:
        score.scatter_add_(1, neighbours[:, counted:k], weights[:, counted:k].double())
        winners.append(score.argmax(dim=1))
        counted = k
    return torch.stack(winners)


def _nearest(bank: Tensor, queries: Tensor, k: int, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return similarity and row of the ``k`` nearest rows of the bank, block by block: ``[queries, k]`` each."""
    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(bank), BLOCK):
        similarity = queries @ bank[start : start + BLOCK].T
        if hidden is not None:
            inside = hidden[(hidden >= start) & (hidden < start + BLOCK)] - start
            similarity.index_fill_(1, inside, -torch.inf)
        nearest, index = similarity.topk(min(k, similarity.shape[1]), dim=1)
        found.append((nearest, index + start))
    if len(found) == 1:
        return found[0]
    similarity, order = torch.cat([nearest for nearest, _ in found], 1).topk(k, dim=1)
    return similarity, torch.cat([index for _, index in found], 1).gather(1, order)
