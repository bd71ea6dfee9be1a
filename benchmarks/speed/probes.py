"""Probes of `hjepa evaluate` on the same features: scikit-learn's solver, as it was used before, and ours.

Usage:  python benchmarks/speed/probes.py [--train cifar10:train] [--test cifar10:test] [--rows 5000]
            > benchmarks/results/speed/probes.md

Features are the average-pooled tokens of an untrained encoder (192 wide, 6 blocks) and raw pixels. Figures are CPU
seconds of one thread, because other processes may share the machine; the two solvers take turns.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from hjepa.data.augment import ResizeToInput
from hjepa.data.loader import ResizedImages
from hjepa.data.sources import open_source
from hjepa.evaluation import Probe, linear, lowshot
from hjepa.evaluation.features import extract_beside, flat_pixels, train_val_split
from hjepa.evaluation.linear import FINAL_ITERATIONS, SWEEP_ITERATIONS, SWEEP_ROWS
from hjepa.evaluation.lowshot import SHOTS, draw
from hjepa.models.encoder import build_encoder
from hjepa.models.frozen import FrozenEncoder, encoder_card
from hjepa.models.initialisation import initialise
from hjepa.randomness import generator

CS = (0.001, 0.01, 0.1, 1.0, 10.0)
Sets = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def before_linear(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray) -> Probe:
    """The linear probe with scikit-learn: every C from zero, to its default tolerance."""
    train_idx, val_idx = train_val_split(train_y, seed=0)
    if len(train_idx) > SWEEP_ROWS:
        train_idx = np.sort(generator(0, "linear sweep").permutation(train_idx)[:SWEEP_ROWS])
    x, val_x = rotated(train_x[train_idx], train_x[val_idx])
    hits = [(fitted(x, train_y[train_idx], c, SWEEP_ITERATIONS).predict(val_x) == train_y[val_idx]).mean() for c in CS]
    chosen = CS[int(np.argmax(hits))]
    x, prepared_test = rotated(train_x, test_x)
    model = fitted(x, train_y, chosen, FINAL_ITERATIONS)
    correct = model.predict(prepared_test) == test_y
    return Probe(float(correct.mean()), {"C": chosen, "converged": bool(model.n_iter_[0] < FINAL_ITERATIONS)}, correct)


def before_lowshot(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray) -> Probe:
    """The 10-shot probe with scikit-learn: 210 problems, one after the other."""
    cs = CS[:4]
    subsets = [draw(train_y, SHOTS, seed=0, number=number) for number in range(10)]
    hits = np.zeros(len(cs))
    for rows in subsets:
        x, y = train_x[rows], train_y[rows]
        for train_idx, val_idx in StratifiedKFold(5).split(x, y):
            fit_x, val_x = rotated(x[train_idx], x[val_idx])
            hits += [(fitted(fit_x, y[train_idx], c, 200).predict(val_x) == y[val_idx]).sum() for c in cs]
    best = cs[int(hits.argmax())]
    correct = []
    for rows in subsets:
        x, prepared_test = rotated(train_x[rows], test_x)
        correct.append(fitted(x, train_y[rows], best, 200).predict(prepared_test) == test_y)
    return Probe(float(np.mean(correct)), {"C": best}, np.mean(correct, 0))


def rotated(fit_x: np.ndarray, other_x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standardise both by the first; with more columns than rows, rotate onto the span of its rows."""
    scaler = StandardScaler().fit(fit_x)
    fit_x, other_x = scaler.transform(fit_x), scaler.transform(other_x)
    if fit_x.shape[1] <= fit_x.shape[0]:
        return fit_x, other_x
    basis, triangle = np.linalg.qr(fit_x.T)
    return np.ascontiguousarray(triangle.T), other_x @ basis


def fitted(x: np.ndarray, y: np.ndarray, c: float, iterations: int) -> LogisticRegression:
    """Fit one model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it does not converge on pixels
        return LogisticRegression(C=c, max_iter=iterations).fit(x, y)


def untrained(size: tuple[int, int]) -> FrozenEncoder:
    """Return an untrained encoder for colour images, 192 wide, of 6 blocks."""
    encoder = build_encoder(image_size=size, patch_size=4, channels=3, width=192, depth=6, heads=3)
    initialise(encoder, seed=0, kind="xavier")
    preprocess = {"image_size": list(size), "mean": [0.5] * 3, "std": [0.25] * 3, "fit": "crop"}
    return FrozenEncoder(encoder, encoder_card(encoder, preprocess, {"seed": 0}))


def features(train: str, test: str, rows: int) -> tuple[dict[str, Sets], float]:
    """Return the sets of each kind of features, and the CPU milliseconds per image of extracting them."""
    size = (32, 32)
    encoder, resize = untrained(size), ResizeToInput(size, 3, "crop", None)
    images = [
        ResizedImages(open_source(name, 3), resize, limit=limit) for name, limit in ((train, rows), (test, rows // 5))
    ]
    start = time.process_time()
    found = [extract_beside({"e": encoder}, each, ["avg"], 64, keep_pixels=True) for each in images]
    spent = 1000 * (time.process_time() - start) / sum(map(len, images))
    y = [next(iter(each.labels.values())) for each in images]
    sets = {
        "192 features": (found[0].features["e"]["avg"], y[0], found[1].features["e"]["avg"], y[1]),
        "raw pixels": (flat_pixels(found[0].pixels), y[0], flat_pixels(found[1].pixels), y[1]),
    }
    return sets, spent


def clocked(probe: Callable[..., Probe], sets: Sets) -> tuple[Probe, float]:
    """Return a probe and the CPU seconds it took."""
    start = time.process_time()
    return probe(*sets), time.process_time() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", default="cifar10:train")
    parser.add_argument("--test", default="cifar10:test")
    parser.add_argument("--rows", type=int, default=5000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sets_of, milliseconds = features(options.train, options.test, options.rows)
    print("# Speed of the probes\n\n`python benchmarks/speed/probes.py`\n")
    print(
        f"{options.train}, {options.rows:,} training and {options.rows // 5:,} test images; CPU seconds of one thread "
        f"on a machine of {os.cpu_count()} cores with a load of {os.getloadavg()[0]:.1f}, torch {torch.__version__}. "
        f"An encoder of 192 x 6 took {milliseconds:.1f} ms per image in float32.\n"
    )
    print("| probe | features | scikit-learn | torch | ratio | accuracy | C | converged |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (before, now) in {"linear": (before_linear, linear), "lowshot": (before_lowshot, lowshot)}.items():
        for kind, sets in sets_of.items():
            (old, old_seconds), (new, new_seconds) = clocked(before, sets), clocked(now, sets)
            chosen = f"{old.setting['C']:g} -> {new.setting['C']:g}"
            print(
                f"| {name} | {kind} | {old_seconds:.1f} | {new_seconds:.1f} | {old_seconds / new_seconds:.1f} | "
                f"{100 * old.accuracy:.1f} -> {100 * new.accuracy:.1f} | {chosen} | "
                f"{old.setting.get('converged', '')} -> {new.setting['converged']} |",
                flush=True,
            )
