"""Linear classification of frozen features: logistic regression."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hjepa.evaluation.features import Probe, probe_device, train_val_split
from hjepa.evaluation.logistic import Models, fit_logistic
from hjepa.randomness import generator

SWEEP_ROWS = 10_000
"""Training rows on which C is chosen: enough to rank values a factor of ten apart."""
SWEEP_ITERATIONS = 200
FINAL_ITERATIONS = 500
BLOCK = 2**24
"""Largest number of features that are standardised at once, in float64."""


def linear(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    cs: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0),
    seed: int = 0,
    device: torch.device | None = None,
) -> Probe:
    """Fit logistic regression (L2, L-BFGS) on standardised ``train_x`` ``[n, F]``, score ``test_x``.

    ``C``, the inverse strength of the penalty, is chosen (the smallest of the best) on a
    validation split of the training set, after fitting at most ``SWEEP_ROWS`` of the rest; the model is then
    fitted again on all rows. ``setting["converged"]`` says whether that last fit met its tolerances
    within ``FINAL_ITERATIONS``. Computes on ``device`` (default: CPU). Raises ``UserError`` when the labels cannot be
    split.
    """
    train_idx, val_idx = train_val_split(train_y, seed=seed)
    ascending = sorted(map(float, cs))
    chosen = ascending[0]
    if len(cs) > 1:
        if len(train_idx) > SWEEP_ROWS:
            train_idx = np.sort(generator(seed, "linear sweep").permutation(train_idx)[:SWEEP_ROWS])
        models = fit_standardised(train_x[train_idx][None], train_y[train_idx], ascending, SWEEP_ITERATIONS, device)
        accuracies = (models.predict(train_x[val_idx])[0] == train_y[val_idx]).mean(1)
        chosen = ascending[int(np.argmax(accuracies))]
    model = fit_standardised(train_x[None], train_y, [chosen], FINAL_ITERATIONS, device)
    correct = model.predict(test_x)[0, 0] == test_y
    return Probe(float(correct.mean()), {"C": chosen, "converged": bool(model.models.converged.all())}, correct)


class StandardisedModels(NamedTuple):
    """Logistic regressions on ``S`` training sets with ``M`` values of C each, and how their features are scaled."""

    models: Models
    mean: Tensor  # float64 [S, 1, F]
    scale: Tensor  # float64 [S, 1, F]; 1 for constant features
    classes: np.ndarray  # [K]

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the predicted labels of the rows of ``x``, [n, F] for all or [S, n, F] for each: [S, M, n]."""
        rows = max(1, BLOCK // self.mean.numel())
        parts = _on(x, self.mean.device).split(rows, dim=-2)
        codes = [self.models.predict(_scaled(part, self.mean, self.scale)).cpu() for part in parts]
        labels: np.ndarray = self.classes[torch.cat(codes, 2).numpy()]
        return labels


def fit_standardised(
    x: np.ndarray, y: np.ndarray, cs: Sequence[float], iterations: int, device: torch.device | None = None
) -> StandardisedModels:
    """Fit logistic regressions on the standardised rows of each of ``x`` [S, n, F], which share their labels ``y`` [n].

    With more columns than rows, the rows are rotated onto their span: the solution of an L2-penalised linear model
    lies in it (representer theorem, Kimeldorf and Wahba, 1971).
    """
    classes, codes = np.unique(y, return_inverse=True)
    features = _on(x, probe_device(device))
    mean, scale = _moments(features)
    features = _in_blocks(features, mean, scale)
    basis = None
    if features.shape[2] > features.shape[1]:
        basis, triangle = torch.linalg.qr(features.mT)  # [S, F, n], [S, n, n]
        features = triangle.mT.contiguous()
    of_rows = torch.from_numpy(codes).to(features.device).expand(len(features), -1)
    models = fit_logistic(features, of_rows, cs, len(classes), iterations)
    if basis is not None:
        models = models._replace(weights=basis[:, None] @ models.weights)
    return StandardisedModels(models, mean, scale, classes)


def _on(x: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(device)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each column of ``x`` [S, n, F], float64 [S, 1, F]; of constant ones, 1."""
    count, rows = x.shape[1], max(1, BLOCK // (x.shape[0] * x.shape[2]))
    mean, squares = (x.new_zeros(len(x), 1, x.shape[2], dtype=torch.float64) for _ in range(2))
    for part in x.split(rows, 1):
        mean += part.sum(1, keepdim=True, dtype=torch.float64)
    mean /= count  # of a constant column exactly its value: sums of float32 values in float64 are not rounded
    for part in x.split(rows, 1):
        squares += (part - mean).square().sum(1, keepdim=True)
    return mean, torch.where(squares == 0, 1.0, (squares / count).sqrt())


def _in_blocks(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Standardise ``x`` [S, n, F], block by block, so that float64 copies stay small."""
    found, rows = torch.empty_like(x), max(1, BLOCK // x.shape[2])
    for s in range(len(x)):
        for first in range(0, x.shape[1], rows):
            found[s, first : first + rows] = _scaled(x[s, first : first + rows], mean[s], scale[s])
    return found


def _scaled(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    # In float64: in float32, a mean that is large beside its deviation would swallow the differences.
    return ((x - mean) / scale).to(x.dtype)
