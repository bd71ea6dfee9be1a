"""Linear classification of frozen features: logistic regression."""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hjepa.evaluation.features import Probe, train_val_split
from hjepa.randomness import generator

SWEEP_ROWS = 10_000
"""Training rows on which C is chosen: enough to rank values a factor of ten apart."""
SWEEP_ITERATIONS = 200
FINAL_ITERATIONS = 500


def linear(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    cs: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 10.0),
    seed: int = 0,
) -> Probe:
    """Fit logistic regression (L2, L-BFGS) on standardised ``train_x`` ``[n, F]``, score ``test_x``.

    ``C``, the inverse strength of the penalty, is chosen (the smallest of the best) on a
    validation split of the training set, after fitting at most ``SWEEP_ROWS`` of the rest; the model is then
    fitted again on all rows. ``setting["converged"]`` says whether that last fit met its tolerance
    within ``FINAL_ITERATIONS``. Raises ``UserError`` when the labels cannot be split.
    """
    train_idx, val_idx = train_val_split(train_y, seed=seed)
    chosen = float(cs[0])
    if len(cs) > 1:
        if len(train_idx) > SWEEP_ROWS:
            train_idx = np.sort(generator(seed, "linear sweep").permutation(train_idx)[:SWEEP_ROWS])
        x, val_x = prepare(train_x[train_idx], train_x[val_idx])
        accuracies = [
            (fit_logistic(x, train_y[train_idx], c, SWEEP_ITERATIONS)[0].predict(val_x) == train_y[val_idx]).mean()
            for c in sorted(cs)
        ]
        chosen = float(sorted(cs)[int(np.argmax(accuracies))])
    x, prepared_test = prepare(train_x, test_x)
    model, converged = fit_logistic(x, train_y, chosen, FINAL_ITERATIONS)
    correct = model.predict(prepared_test) == test_y
    return Probe(float(correct.mean()), {"C": chosen, "converged": converged}, correct)


def prepare(fit_x: np.ndarray, other_x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standardise both by the first; with more columns than rows, rotate onto the span of its rows.

    The solution of an L2-penalised linear model lies in that span (representer theorem, Kimeldorf
    and Wahba, 1971) and L-BFGS from zero commutes with rotations: same model, a fraction of the time.
    """
    scaler = StandardScaler(copy=True).fit(fit_x)
    fit_x, other_x = scaler.transform(fit_x), scaler.transform(other_x)
    if fit_x.shape[1] <= fit_x.shape[0]:
        return fit_x, other_x
    basis, triangle = np.linalg.qr(fit_x.T)  # [F, n], [n, n]
    return np.ascontiguousarray(triangle.T), other_x @ basis


def fit_logistic(x: np.ndarray, y: np.ndarray, c: float, iterations: int) -> tuple[LogisticRegression, bool]:
    """Fit one model; also say whether it converged, which scikit-learn tells only by a warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model = LogisticRegression(C=c, max_iter=iterations).fit(x, y)
    return model, not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
