"""Weighted k-nearest-neighbour classification of features with their spread evened out."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from hjepa.evaluation.features import Probe, train_val_split
from hjepa.evaluation.knn import knn
from hjepa.randomness import generator


def whitened_knn(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    components: Sequence[int] = (64, 128, 256),
    seed: int = 0,
    device: torch.device | None = None,
) -> Probe:
    """Standardise and PCA-whiten ``train_x`` ``[n, F]`` and ``test_x``, fitted on the training images, then ``knn``.

    The few principal components of largest variance dominate the cosine similarity of raw features. Dividing each one
    by its standard deviation is the usual remedy in image retrieval (Jégou and Chum 2012, "Negative evidences and
    co-occurences in image retrieval: the benefit of PCA and whitening"); it needs no labels. The number of components
    (the smallest of the best; ``setting["components"]``) is chosen like k, on a validation split of the training set.
    Neighbours are searched on ``device``. Raises ``UserError`` as ``knn`` does.
    """
    train_idx, val_idx = train_val_split(train_y, seed=seed)
    possible = sorted({min(count, len(train_idx) - 1, train_x.shape[1]) for count in components})
    chosen = possible[0]
    if len(possible) > 1:
        fit_x, val_x = _whiten(train_x[train_idx], train_x[val_idx], possible[-1], seed)
        y = train_y[train_idx], train_y[val_idx]
        hits = [knn(fit_x[:, :n], y[0], val_x[:, :n], y[1], seed=seed, device=device).accuracy for n in possible]
        chosen = possible[int(np.argmax(hits))]
    whitened_train, whitened_test = _whiten(train_x, test_x, chosen, seed)
    probe = knn(whitened_train, train_y, whitened_test, test_y, seed=seed, device=device)
    return Probe(probe.accuracy, probe.setting | {"components": chosen}, probe.correct)


def _whiten(fit_x: np.ndarray, other_x: np.ndarray, components: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return both, PCA-whitened with the leading components of the first: ``[n, components]``."""
    scaler = StandardScaler().fit(fit_x)
    axes = PCA(components, whiten=True, random_state=int(generator(seed, "principal axes").integers(2**31)))
    return axes.fit_transform(scaler.transform(fit_x)), axes.transform(scaler.transform(other_x))
