"""Few-shot linear probe: a few labels per class, averaged over random subsets."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold

from hjepa.errors import UserError
from hjepa.evaluation.features import Probe
from hjepa.evaluation.linear import fit_standardised
from hjepa.evaluation.logistic import HISTORY
from hjepa.randomness import generator

SHOTS = 10
FOLDS = 5
ITERATIONS = 200
TOGETHER = 2**28
"""Largest number of values of the subsets that are fitted at once: features, preconditioners, L-BFGS history."""


def lowshot(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    shots: int = SHOTS,
    draws: int = 10,
    cs: Sequence[float] = (0.001, 0.01, 0.1, 1.0),
    seed: int = 0,
    device: torch.device | None = None,
) -> Probe:
    """Fit logistic regression on ``shots`` images per class of ``train_x`` ``[n, F]``, averaged over ``draws`` subsets.

    Only the sampled images are used, also to standardise features and to choose ``C`` (the smallest of the best in
    five-fold cross-validation over all subsets). ``Probe.draws`` holds the accuracy of each subset. The subsets depend
    on ``seed`` and the labels alone, so baselines see the same ones. Computes on ``device`` (default: CPU); subsets are
    fitted together. Raises ``UserError`` if a class has fewer images than ``shots``.
    """
    refuse_scarce_labels(train_y, "the training set", shots=shots)
    rows = np.stack([draw(train_y, shots, seed=seed, number=number) for number in range(draws)])
    y = train_y[rows[0]]  # class by class, so that the rows of every subset have the same labels
    wide = min(train_x.shape[1], len(y))
    size = len(y) * train_x.shape[1] + len(cs) * wide * (wide + 3 * HISTORY * len(y) // shots)
    groups = np.array_split(rows, min(draws, -(-draws * size // TOGETHER)))
    best = float(cs[0])
    if shots > 1 and len(cs) > 1:
        hits = np.zeros(len(cs))
        for train_idx, val_idx in StratifiedKFold(min(FOLDS, shots)).split(y, y):
            for group in groups:
                x = train_x[group]
                models = fit_standardised(x[:, train_idx], y[train_idx], cs, ITERATIONS, device)
                hits += (models.predict(x[:, val_idx]) == y[val_idx]).sum((0, 2))
        best = float(cs[int(hits.argmax())])
    correct, converged = np.zeros((draws, len(test_y)), dtype=bool), True
    for group, numbers in zip(groups, np.array_split(np.arange(draws), len(groups)), strict=True):
        model = fit_standardised(train_x[group], y, [best], ITERATIONS, device)
        correct[numbers] = model.predict(test_x)[:, 0] == test_y
        converged = converged and bool(model.models.converged.all())
    setting = {"C": best, "converged": converged, "shots": shots, "draws": draws}
    return Probe(float(correct.mean()), setting, correct.mean(0), correct.mean(1))


def draw(labels: np.ndarray, shots: int, *, seed: int, number: int) -> np.ndarray:
    """Return the rows of ``shots`` images of each class, drawn without replacement: int64 ``[classes * shots]``."""
    rows = (np.flatnonzero(labels == label) for label in np.unique(labels))
    return np.concatenate(
        [generator(seed, "low-shot", number, c).permutation(of_class)[:shots] for c, of_class in enumerate(rows)]
    )


def refuse_scarce_labels(labels: np.ndarray, name: str, classes: Sequence[str] = (), *, shots: int = SHOTS) -> None:
    """Raise ``UserError`` for the first class of training ``labels`` that has fewer images than ``shots``."""
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        if count < shots:
            raise UserError(
                f"{name}: class {classes[label] if classes else label} has {count} images, but lowshot needs {shots}: "
                "label more images, or remove lowshot from --protocols"
            )
