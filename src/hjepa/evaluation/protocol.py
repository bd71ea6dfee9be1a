"""The whole evaluation: probes, baselines, confidence intervals, and a summary in words."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Self

import numpy as np
import torch

from hjepa.errors import UserError
from hjepa.evaluation.features import (
    POOLINGS,
    Encoder,
    Extracted,
    LabelledImages,
    Probe,
    check_known,
    extract_beside,
    flat_pixels,
    train_val_split,
)
from hjepa.evaluation.knn import knn
from hjepa.evaluation.linear import linear
from hjepa.evaluation.lowshot import lowshot, refuse_scarce_labels
from hjepa.evaluation.whitened import whitened_knn
from hjepa.randomness import generator

PROTOCOLS = ("knn", "knn-whitened", "linear", "lowshot")
DEFAULT_PROTOCOLS = ("knn", "linear")

Interval = tuple[float, float]
Sets = tuple[np.ndarray, np.ndarray]
"""Features of the training and the test images, float32 ``[n, F]`` each."""


@dataclass(frozen=True)
class Result:
    """One protocol with one pooling for one kind of label; accuracies are fractions (0..1) of the test images."""

    protocol: str
    pooling: str
    level: str
    labels: str
    setting: dict[str, float | int | bool]
    accuracy: float
    interval: Interval
    n_train: int
    n_test: int
    controls: dict[str, float]
    control_intervals: dict[str, Interval]
    controls_setting: dict[str, dict[str, float | int | bool]]
    chance: float
    """Accuracy of always answering the most frequent class of the training set."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Identify what was measured: results with the same key measure the same thing."""
        return self.protocol, self.pooling, self.level, self.labels

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` returned; raises KeyError if something is missing."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})

    def to_json(self) -> dict[str, Any]:
        """Return the stable machine-readable form; accuracies are rounded to four digits."""
        chosen = "k" if "k" in self.setting else "C"
        return {
            "protocol": self.protocol,
            "pooling": self.pooling,
            "level": self.level,
            chosen: self.setting[chosen],
            "accuracy": round(self.accuracy, 4),
            "interval": _rounded(self.interval),
            "n_train": self.n_train,
            "n_test": self.n_test,
            "controls": {name: round(value, 4) for name, value in self.controls.items()},
            "labels": self.labels,
            "chance": round(self.chance, 4),
            "setting": dict(self.setting),
            "control_intervals": {name: _rounded(value) for name, value in self.control_intervals.items()},
            "controls_setting": {name: dict(value) for name, value in self.controls_setting.items()},
        }


def _rounded(interval: Interval) -> list[float]:
    return [round(interval[0], 4), round(interval[1], 4)]


def bootstrap_interval(correct: np.ndarray, *, seed: int = 0, resamples: int = 1000) -> Interval:
    """Return the 95 % percentile bootstrap interval (Efron, 1979) of the mean of bool ``[n]``."""
    n = len(correct)
    # The number of correct answers in n draws with replacement IS binomial: no need to draw images.
    means = generator(seed, "bootstrap").binomial(n, float(np.mean(correct)), size=resamples) / n
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def probe_interval(probe: Probe, *, seed: int = 0) -> Interval:
    """Return the 95 % interval of a probe: over its random subsets, if any, which vary more than test images."""
    if probe.draws is None:
        return bootstrap_interval(probe.correct, seed=seed)
    n = len(probe.draws)
    means = probe.draws[generator(seed, "bootstrap of draws").integers(n, size=(1000, n))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def evaluate(
    encoder: Encoder | Sequence[Encoder],
    control: Encoder | Sequence[Encoder],
    train: LabelledImages,
    test: LabelledImages,
    *,
    protocols: Sequence[str] = DEFAULT_PROTOCOLS,
    poolings: Sequence[str] = ("avg",),
    level: str = "last",
    seed: int = 0,
    batch_size: int = 256,
    device: torch.device | None = None,
    autocast: torch.dtype | None = None,
    progress: Callable[[str], None] | None = None,
    on_images: Callable[[int, int], None] | None = None,
    keep: Callable[[Sequence[Result]], None] | None = None,
) -> list[Result]:
    """Probe ``encoder``, with ``control`` (the same architecture, untrained) and raw pixels as baselines.

    One result per label name, protocol and pooling, in that order. The control is pooled the same
    way and chooses its own k or C the same way; raw pixels are flattened whatever the pooling.
    Several encoders (the levels of one) are probed as one, with concatenated features. ``level`` names
    these features in the results. Encoders and probes compute on ``device``, encoders with matrix products
    in ``autocast`` (None: the dtype of their weights). ``progress`` gets one line before each measurement,
    ``on_images`` the numbers of images done and of all images while features are extracted, ``keep`` all results so
    far after each measurement.
    Raises ``UserError`` for unknown names and unsuitable labels, before any work, and for non-finite
    features.
    """
    check_known("protocol", protocols, PROTOCOLS)
    check_known("pooling", poolings, POOLINGS)
    _check_labels(train, test, seed)
    if "lowshot" in protocols:
        for name, numbers in train.labels.items():
            classes = getattr(train, "classes", ()) if name == "label" else ()
            refuse_scarce_labels(numbers, f"{train.name} ({name})", classes)
    say = progress or (lambda line: None)
    total = len(train) + len(test)
    say(f"extracting features, pretrained and random init: {total:,} images")
    both = {"pretrained": encoder, "random_init": control}
    of_train, of_test = (
        extract_beside(
            both, images, poolings, batch_size, device=device, autocast=autocast, keep_pixels=True,
            on_images=partial(_count, on_images, before, total),
        )
        for images, before in ((train, 0), (test, len(train)))
    )  # fmt: skip
    features: dict[str, dict[str, Sets]] = {
        name: {pooling: (of_train.features[name][pooling], of_test.features[name][pooling]) for pooling in poolings}
        for name in both
    }
    pixels = _pixel_sets(of_train, of_test)
    results: list[Result] = []
    probes = len(train.labels) * len(protocols) * (1 + len(poolings))
    number = itertools.count(1)
    for labels, numbers in train.labels.items():
        y = numbers, test.labels[labels]
        for protocol in protocols:
            say(f"{protocol}, {labels}, raw pixels (probe {next(number)} of {probes})")
            raw = _probe(protocol, pixels, y, seed, device)
            for pooling in poolings:
                say(f"{protocol}, {labels}, {pooling} (probe {next(number)} of {probes})")
                found = {name: _probe(protocol, sets[pooling], y, seed, device) for name, sets in features.items()}
                pretrained = found.pop("pretrained")
                controls = {**found, "raw_pixels": raw}
                results.append(_result(protocol, pooling, level, labels, pretrained, controls, y, seed))
                if keep:
                    keep(results)
    return results


def _count(on_images: Callable[[int, int], None] | None, before: int, total: int, done: int) -> None:
    if on_images:
        on_images(before + done, total)


def _check_labels(train: LabelledImages, test: LabelledImages, seed: int) -> None:
    for images in (train, test):
        if not images.labels:
            how = getattr(images, "unlabelled", "use for example one folder per class")
            raise UserError(f"{images.name} has no labels, which evaluation needs: {how}")
    if set(train.labels) != set(test.labels):
        raise UserError(
            f"label names differ: {train.name} has {', '.join(train.labels)}; "
            f"{test.name} has {', '.join(test.labels)}: use two splits of the same labelled dataset"
        )
    for name, labels in train.labels.items():
        classes = getattr(train, "classes", ()) if name == "label" else ()
        train_val_split(labels, seed=seed, name=f"{train.name} ({name})", classes=classes)
        if not np.isin(test.labels[name], labels).any():
            raise UserError(
                f"no class of {test.name} ({name}) occurs in {train.name}: use two splits of the same labelled dataset"
            )


def _pixel_sets(train: Extracted, test: Extracted) -> Sets:
    assert train.pixels is not None and test.pixels is not None
    train_x, test_x = flat_pixels(train.pixels), flat_pixels(test.pixels)
    if train_x.shape[1] != test_x.shape[1]:  # only one of the two sets is all grey
        return flat_pixels(train.pixels, keep_channels=True), flat_pixels(test.pixels, keep_channels=True)
    return train_x, test_x


def _probe(protocol: str, x: Sets, y: Sets, seed: int, device: torch.device | None) -> Probe:
    probes: dict[str, Callable[..., Probe]] = {
        "knn": knn,
        "knn-whitened": whitened_knn,
        "linear": linear,
        "lowshot": lowshot,
    }
    return probes[protocol](x[0], y[0], x[1], y[1], seed=seed, device=device)


def _result(
    protocol: str,
    pooling: str,
    level: str,
    labels: str,
    pretrained: Probe,
    controls: dict[str, Probe],
    y: Sets,
    seed: int,
) -> Result:
    classes, sizes = np.unique(y[0], return_counts=True)
    return Result(
        protocol=protocol,
        pooling=pooling,
        level=level,
        labels=labels,
        setting=pretrained.setting,
        accuracy=pretrained.accuracy,
        interval=probe_interval(pretrained, seed=seed),
        n_train=len(y[0]),
        n_test=len(y[1]),
        controls={name: probe.accuracy for name, probe in controls.items()},
        control_intervals={name: probe_interval(probe, seed=seed) for name, probe in controls.items()},
        controls_setting={name: probe.setting for name, probe in controls.items()},
        chance=float((y[1] == classes[sizes.argmax()]).mean()),
    )


def table(results: Sequence[Result]) -> list[list[str]]:
    """Return a header and one row per result, accuracies in per cent; the level is shown if any is not the last."""
    several = any(result.level != "last" for result in results)
    header = ["labels", "protocol", "pooling", "pretrained", "random init", "raw pixels", "chance"]
    return [["level", *header] if several else header] + [
        [
            *([result.level] if several else []),
            result.labels,
            f"{result.protocol} ({_choice(result)})",
            result.pooling,
            f"{_percent(result.accuracy)} [{_percent(result.interval[0])}, {_percent(result.interval[1])}]",
            _percent(result.controls["random_init"]),
            _percent(result.controls["raw_pixels"]),
            _percent(result.chance),
        ]
        for result in results
    ]


def _choice(result: Result) -> str:
    name = "k" if "k" in result.setting else "C"
    shots = f"{result.setting['shots']} labels, " if "shots" in result.setting else ""
    axes = f"{result.setting['components']} axes, " if "components" in result.setting else ""
    return f"{shots}{axes}{name}={result.setting[name]:g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def harm(results: Sequence[Result]) -> str:
    """Warn in one line that pretraining was harmful, with what to do; empty if no result is worse than random init.

    Worse means that the 95 % intervals do not overlap.
    """
    below = [result for result in results if _against(result, "random_init") == "worse"]
    if not below:
        return ""
    worst = min(below, key=lambda result: result.accuracy - result.controls["random_init"])
    where = f"{worst.protocol}, {worst.pooling}" + (f", {worst.labels}" if worst.labels != "label" else "")
    often, most = "", ""
    if len(results) > 1:
        often, most = f" {_in_so_many(len(below), len(results))}", "most clearly with " if len(below) > 1 else ""
    return (
        f"Pretraining made the features worse than those of a random-init encoder{often} ({most}{where}: "
        f"{_percent(worst.accuracy)}%, compared with {_percent(worst.controls['random_init'])}% at random init). Do "
        "not use this encoder for these labels: train longer, or start again with another recipe, then evaluate again."
    )


def conclusion(results: Sequence[Result]) -> str:
    """Summarise whether pretraining helped, compared with random init and with raw pixels.

    "Better" and "worse" mean that the 95 % intervals do not overlap; everything else is "not clearly different".
    """
    if not results:
        return "Nothing was measured."
    if len(results) == 1:
        return _conclusion_of_one(results[0])
    random, raw = (_tally(results, name) for name in ("random_init", "raw_pixels"))
    total = len(results)
    opening = (
        f"Pretraining helped {_in_so_many(random['better'], total)}"
        if random["better"]
        else f"Pretraining did not help in any of {total} measurements"
    )
    return (
        f"{opening}. Compared with random init, the features are {_compared(random)}. "
        f"Compared with raw pixels, they are {_compared(raw)}."
    )


def _in_so_many(count: int, total: int) -> str:
    if count < total:
        return f"in {count} of {total} measurements"
    return "in both measurements" if total == 2 else f"in all {total} measurements"


def _compared(tally: dict[str, int]) -> str:
    words = {"better": "better", "worse": "worse", "level": "not clearly different"}
    counted = [f"{words[outcome]} in {count}" for outcome, count in tally.items() if count]
    if len(counted) == 1:
        [only] = [outcome for outcome, count in tally.items() if count]
        return f"{words[only]} in {'any' if only == 'level' else 'every'} measurement"
    return f"{', '.join(counted[:-1])} and {counted[-1]}"


def _conclusion_of_one(result: Result) -> str:
    got, random = _percent(result.accuracy), _percent(result.controls["random_init"])
    numbers = f"{result.protocol} with {result.pooling} pooling reaches {got}%, compared with {random}% at random init"
    first = {
        "better": f"Pretraining helped: {numbers}, and the 95% intervals do not overlap.",
        "level": f"Pretraining made no clear difference: {numbers}, and the 95% intervals overlap.",
        "worse": f"Pretraining was harmful: {numbers}, and the 95% intervals do not overlap.",
    }[_against(result, "random_init")]
    second = {
        "better": "The features are better than raw pixels",
        "level": "The features are not clearly better or worse than raw pixels",
        "worse": "The features are worse than raw pixels",
    }[_against(result, "raw_pixels")]
    return f"{first} {second} ({_percent(result.controls['raw_pixels'])}%)."


def _against(result: Result, control: str) -> str:
    low, high = result.control_intervals[control]
    if result.interval[0] > high:
        return "better"
    return "worse" if result.interval[1] < low else "level"


def _tally(results: Sequence[Result], control: str) -> dict[str, int]:
    outcomes = [_against(result, control) for result in results]
    return {outcome: outcomes.count(outcome) for outcome in ("better", "worse", "level")}
