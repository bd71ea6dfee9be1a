"""The whole evaluation with a tiny real encoder; intervals, controls, JSON, table and words."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hjepa.errors import UserError
from hjepa.evaluation import (
    Probe,
    Result,
    bootstrap_interval,
    conclusion,
    evaluate,
    extract,
    harm,
    knn,
    linear,
    raw_pixels,
    table,
    whitened_knn,
)


class TinyEncoder(nn.Module):
    """Patches of 2 pixels, three blocks of Linear and tanh, a final norm: the protocol, no more."""

    def __init__(self, seed: int, width: int = 6) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.patches = nn.Conv2d(3, width, 2, stride=2)
            self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)

    def grid(self, images: Tensor) -> tuple[int, int]:
        return images.shape[2] // 2, images.shape[3] // 2

    @torch.no_grad()
    def block_tokens(self, images: Tensor, last: int) -> list[Tensor]:
        tokens = self.patches(images / 255 - 0.5).flatten(2).transpose(1, 2)
        outputs = []
        for block in self.blocks:
            tokens = tokens + torch.tanh(block(tokens))
            outputs.append(self.norm(tokens))
        return outputs[-last:]


class Squares:
    """Noisy 8 x 8 images; ``label`` is the corner that is bright, ``shade`` how bright it is."""

    def __init__(self, n: int, seed: int, names: tuple[str, ...] = ("label",), grey: bool = False) -> None:
        rng = np.random.default_rng(seed)
        corner, shade = rng.integers(0, 4, n), rng.integers(0, 2, n)
        pixels = rng.integers(0, 90, (n, 1 if grey else 3, 8, 8))
        for image, place, bright in zip(pixels, corner, shade, strict=True):
            top, left = 4 * (place // 2), 4 * (place % 2)
            image[:, top : top + 4, left : left + 4] += 80 + 60 * bright
        pixels = np.broadcast_to(pixels, (n, 3, 8, 8)).astype(np.uint8)
        self.pixels = torch.from_numpy(pixels)
        self.name = f"squares-{seed}"
        self.labels = {name: shade if name == "shade" else corner for name in names}

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        yield from torch.split(self.pixels, batch_size)


TRAIN, TEST = Squares(150, 0), Squares(80, 1)
ENCODER, CONTROL = TinyEncoder(0), TinyEncoder(1)


@pytest.mark.parametrize("pooling", ["avg", "last4", "grid4"])
@pytest.mark.parametrize("protocol", ["knn", "knn-whitened", "linear"])
def test_controls_are_pooled_and_probed_the_same_way(protocol: str, pooling: str) -> None:
    probe = {"knn": knn, "knn-whitened": whitened_knn, "linear": linear}[protocol]
    [result] = evaluate(ENCODER, CONTROL, TRAIN, TEST, protocols=(protocol,), poolings=(pooling,))
    y = TRAIN.labels["label"], TEST.labels["label"]
    expected = {
        name: probe(extract(model, TRAIN, (pooling,))[pooling], y[0], extract(model, TEST, (pooling,))[pooling], y[1])
        for name, model in (("pretrained", ENCODER), ("random_init", CONTROL))
    }
    expected["raw_pixels"] = probe(raw_pixels(TRAIN), y[0], raw_pixels(TEST), y[1])
    pretrained = expected.pop("pretrained")
    assert (result.accuracy, result.setting) == (pretrained.accuracy, pretrained.setting)
    assert result.interval == bootstrap_interval(pretrained.correct)
    assert result.controls == {name: probe.accuracy for name, probe in expected.items()}
    assert result.controls_setting == {name: probe.setting for name, probe in expected.items()}
    assert result.control_intervals == {name: bootstrap_interval(probe.correct) for name, probe in expected.items()}


def test_where_the_bright_corner_is_needs_cells_kept_apart() -> None:
    avg, grid4 = evaluate(ENCODER, CONTROL, TRAIN, TEST, protocols=("linear",), poolings=("avg", "grid4"), level="last")
    assert grid4.accuracy > 0.95
    assert avg.accuracy < 0.6
    assert grid4.controls["random_init"] > 0.95
    assert avg.controls["raw_pixels"] == grid4.controls["raw_pixels"]


def test_results_come_by_label_protocol_and_pooling_with_progress_before_each() -> None:
    names = ("label", "shade")
    lines: list[str] = []
    images: list[tuple[int, int]] = []
    results = evaluate(
        ENCODER,
        CONTROL,
        Squares(60, 0, names),
        Squares(30, 1, names),
        poolings=("avg", "grid4"),
        level="2",
        batch_size=40,
        progress=lines.append,
        on_images=lambda done, total: images.append((done, total)),
    )
    order = [(result.labels, result.protocol, result.pooling) for result in results]
    assert order == [(n, p, q) for n in names for p in ("knn", "linear") for q in ("avg", "grid4")]
    assert {result.level for result in results} == {"2"}
    assert lines[:4] == [
        "extracting features, pretrained and random init: 90 images",
        "knn, label, raw pixels (probe 1 of 12)",
        "knn, label, avg (probe 2 of 12)",
        "knn, label, grid4 (probe 3 of 12)",
    ]
    assert lines[-1] == "linear, shade, grid4 (probe 12 of 12)"
    assert len(lines) == 1 + 4 * 3
    assert images == [(40, 90), (60, 90), (90, 90)]


def test_images_are_read_once_for_both_encoders_and_the_pixels() -> None:
    class Counted(Squares):
        reads = 0

        def batches(self, batch_size: int) -> Iterator[Tensor]:
            self.reads += 1
            yield from super().batches(batch_size)

    train, test = Counted(60, 0), Counted(30, 1)
    evaluate(ENCODER, CONTROL, train, test, protocols=("knn",), poolings=("avg", "last4"))
    assert (train.reads, test.reads) == (1, 1)


def test_chance_is_the_training_sets_most_frequent_class() -> None:
    train, test = Squares(60, 0), Squares(40, 1)
    train.labels["label"] = np.array([5] * 40 + [6] * 20)
    test.labels["label"] = np.array([5] * 10 + [6] * 30)
    [result] = evaluate(ENCODER, CONTROL, train, test, protocols=("knn",))
    assert result.chance == 0.25


def test_one_grey_set_and_one_colour_set_still_compare() -> None:
    [result] = evaluate(ENCODER, CONTROL, Squares(60, 0, grey=True), TEST, protocols=("knn",))
    assert 0.9 < result.controls["raw_pixels"] <= 1.0


def test_the_bootstrap_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    for truth in (0.3, 0.85):
        covered = 0
        for seed in range(600):
            low, high = bootstrap_interval(rng.random(400) < truth, seed=seed)
            covered += low <= truth <= high
        # Three standard errors of a share of 600 are 2.7 points.
        assert 0.92 < covered / 600 < 0.98


def test_the_bootstrap_equals_resampling_the_images() -> None:
    correct = np.arange(200) % 10 < 7
    draws = np.random.default_rng(1).choice(correct, size=(20_000, 200)).mean(axis=1)
    np.testing.assert_allclose(
        bootstrap_interval(correct, resamples=20_000), np.percentile(draws, [2.5, 97.5]), atol=0.006
    )
    assert bootstrap_interval(correct, seed=3) == bootstrap_interval(correct, seed=3)
    assert bootstrap_interval(np.ones(50, dtype=bool)) == (1.0, 1.0)


def result(
    accuracy: float = 0.71612,
    interval: tuple[float, float] = (0.70711, 0.72549),
    random: float = 0.58905,
    raw: float = 0.8612,
) -> Result:
    """Return a k-NN result; controls have intervals of one point to each side."""
    controls = {"random_init": random, "raw_pixels": raw}
    return Result(
        protocol="knn",
        pooling="avg",
        level="last",
        labels="label",
        setting={"k": 20, "temperature": 0.07},
        accuracy=accuracy,
        interval=interval,
        n_train=60_000,
        n_test=10_000,
        controls=controls,
        control_intervals={name: (value - 0.01, value + 0.01) for name, value in controls.items()},
        controls_setting={name: {"k": 5, "temperature": 0.07} for name in controls},
        chance=0.1,
    )


def test_json_has_the_stable_keys_in_order_then_the_rest() -> None:
    expected = {
        "protocol": "knn",
        "pooling": "avg",
        "level": "last",
        "k": 20,
        "accuracy": 0.7161,
        "interval": [0.7071, 0.7255],
        "n_train": 60000,
        "n_test": 10000,
        "controls": {"random_init": 0.589, "raw_pixels": 0.8612},
        "labels": "label",
        "chance": 0.1,
        "setting": {"k": 20, "temperature": 0.07},
        "control_intervals": {"random_init": [0.579, 0.599], "raw_pixels": [0.8512, 0.8712]},
        "controls_setting": {
            "random_init": {"k": 5, "temperature": 0.07},
            "raw_pixels": {"k": 5, "temperature": 0.07},
        },
    }
    found = result().to_json()
    assert json.loads(json.dumps(found)) == expected
    assert list(found) == list(expected)
    assert type(found["k"]) is int


def test_json_of_a_linear_result_names_c() -> None:
    [found] = evaluate(ENCODER, CONTROL, TRAIN, TEST, protocols=("linear",), poolings=("grid4",))
    shape = json.loads(json.dumps(found.to_json()))
    assert shape["C"] == found.setting["C"]
    assert shape["setting"]["converged"] is True
    assert "k" not in shape


def test_table_has_a_header_and_a_row_per_result() -> None:
    shapes = replace(result(), protocol="linear", setting={"C": 0.01, "converged": True}, labels="texture")
    assert table([result(), shapes]) == [
        ["labels", "protocol", "pooling", "pretrained", "random init", "raw pixels", "chance"],
        ["label", "knn (k=20)", "avg", "71.6 [70.7, 72.5]", "58.9", "86.1", "10.0"],
        ["texture", "linear (C=0.01)", "avg", "71.6 [70.7, 72.5]", "58.9", "86.1", "10.0"],
    ]


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (
            result(),
            r"^Pretraining helped: knn.*avg.* 71\.6%.* 58\.9%.*do not overlap\..* worse than raw pixels \(86\.1%\)\.$",
        ),
        (
            result(random=0.70, raw=0.72),
            r"no clear difference: .* 71\.6%.* 70\.0%.* intervals overlap\..* not clearly .*raw pixels \(72\.0%\)\.$",
        ),
        (
            result(random=0.80, raw=0.50),
            r"^Pretraining was harmful: .* 71\.6%.* 80\.0%.*do not overlap\..* better than raw pixels \(50\.0%\)\.$",
        ),
    ],
)
def test_the_conclusion_of_one_measurement(measured: Result, words: str) -> None:
    assert re.search(words, conclusion([measured]))


def test_the_conclusion_of_several_counts_them() -> None:
    several = [result(), result(random=0.70, raw=0.5), result(random=0.8, raw=0.72)]
    assert conclusion(several) == (
        "Pretraining helped in 1 of 3 measurements. Compared with random init, the features are better in 1, worse in "
        "1 and not clearly different in 1. Compared with raw pixels, they are better in 1, worse in 1 and not clearly "
        "different in 1."
    )
    assert conclusion([result(), result()]) == (
        "Pretraining helped in both measurements. Compared with random init, the features are better in every "
        "measurement. Compared with raw pixels, they are worse in every measurement."
    )
    assert "not clearly different in any measurement" in conclusion([result(random=0.7)] * 3)
    assert "in all 3 measurements" in conclusion([result()] * 3)
    assert re.search(r"^Pretraining did not .*\b2 measurements\b", conclusion(several[1:]))
    assert conclusion([]) == "Nothing was measured."


def test_harm_is_said_in_one_line_with_what_to_do() -> None:
    assert harm([result(), result(random=0.72)]) == ""  # better, and no clear difference
    said = harm([result(random=0.80), result(), replace(result(random=0.9), protocol="linear", labels="shape")])
    worst = r"2 of 3 measurements.*linear, avg, shape: 71\.6 ?%.* 90\.0 ?%.*[Dd]o not use.*train longer.*recipe"
    assert re.search(worst, said) and "\n" not in said
    assert re.search(r"worse.*\(knn, avg: 71\.6 ?%", harm([result(random=0.80)]))


def unlabelled() -> Squares:
    images = Squares(20, 1)
    images.labels = {}
    return images


def relabelled(labels: list[int]) -> Squares:
    images = Squares(len(labels), 1)
    images.labels = {"label": np.array(labels)}
    return images


@pytest.mark.parametrize(
    ("train", "test", "options", "message"),
    [
        (
            TRAIN,
            unlabelled(),
            {},
            r"squares-1 has no labels.*one folder per class",
        ),
        (
            TRAIN,
            Squares(20, 1, ("texture", "shade")),
            {},
            r"squares-0 has label\b.*squares-1 has texture, shade\b.*same labelled",
        ),
        (
            relabelled([3] * 8),
            TEST,
            {},
            r"squares-1 \(label\) .*one class\b.*\(class 3, 8 images\).*at least two",
        ),
        (
            relabelled([0, 1, 2, 3]),
            TEST,
            {},
            r"squares-1 \(label\) .*one image per class \(4 classes\).*k or C.*at least two",
        ),
        (
            TRAIN,
            relabelled([8, 9, 8, 9]),
            {},
            r"squares-1 \(label\).*squares-0.*same labelled",
        ),
        (
            TRAIN,
            TEST,
            {"protocols": ("liner",)},
            r"'liner'.*knn, knn-whitened, linear, lowshot.*did you mean 'linear'\?",
        ),
        (
            TRAIN,
            TEST,
            {"poolings": ("avg", "attention")},
            r"'attention'.*avg, last4, grid4",
        ),
    ],
)
def test_wrong_input_is_one_line_before_any_work(
    train: Squares, test: Squares, options: dict[str, tuple[str, ...]], message: str
) -> None:
    lines: list[str] = []
    with pytest.raises(UserError, match=message):
        evaluate(ENCODER, CONTROL, train, test, progress=lines.append, **options)
    assert lines == []


def test_a_probe_keeps_which_images_were_right() -> None:
    x = np.eye(4, dtype=np.float32).repeat(5, axis=0)
    y = np.arange(4).repeat(5)
    probe = knn(x, y, np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0]), ks=(1,))
    assert isinstance(probe, Probe)
    assert probe.correct.tolist() == [True, True, True, False]
    assert probe.accuracy == 0.75
