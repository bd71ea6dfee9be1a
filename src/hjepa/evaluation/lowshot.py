"""Few-shot linear probe: a few labels per class, averaged over random subsets."""

from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedKFold

from hjepa.errors import UserError
from hjepa.evaluation.features import Probe
from hjepa.evaluation.linear import fit_logistic, prepare
from hjepa.randomness import generator

SHOTS = 10
FOLDS = 5
ITERATIONS = 200


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
) -> Probe:
    """Fit logistic regression on ``shots`` images per class of ``train_x`` ``[n, F]``, averaged over ``draws`` subsets.

    Only the sampled images are used, also to standardise features and to choose ``C`` (the smallest of the best in
    five-fold cross-validation over all subsets). ``Probe.draws`` holds the accuracy of each subset. The subsets depend
    on ``seed`` and the labels alone, so baselines see the same ones. Raises ``UserError``
    if a class has fewer images than ``shots``.
    """
    refuse_scarce_labels(train_y, "the training set", shots=shots)
    chosen = [draw(train_y, shots, seed=seed, number=number) for number in range(draws)]
    folds = StratifiedKFold(min(FOLDS, shots)) if shots > 1 else None
    best = float(cs[0])
    if folds is not None and len(cs) > 1:
        hits = np.zeros(len(cs))
        for rows in chosen:
            x, y = train_x[rows], train_y[rows]
            for train_idx, val_idx in folds.split(x, y):
                fit_x, val_x = prepare(x[train_idx], x[val_idx])
                hits += [
                    (fit_logistic(fit_x, y[train_idx], c, ITERATIONS)[0].predict(val_x) == y[val_idx]).sum() for c in cs
                ]
        best = float(cs[int(hits.argmax())])
    correct, converged = np.zeros((draws, len(test_y)), dtype=bool), True
    for number, rows in enumerate(chosen):
        x, prepared_test = prepare(train_x[rows], test_x)
        model, met = fit_logistic(x, train_y[rows], best, ITERATIONS)
        correct[number], converged = model.predict(prepared_test) == test_y, converged and met
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
