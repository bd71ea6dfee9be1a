"""The embedded data set: pure per index, factors known, balanced, independent and visible."""

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from hjepa.data.scene_factors import FACTOR_CLASSES, FACTORS, SHAPES, TEXTURES
from hjepa.data.scenes import Scenes
from hjepa.errors import UserError

SCENES = Scenes()


class FixedFactor(Scenes):
    """Scenes that differ from the plain ones in one factor only, which has one class throughout."""

    def __init__(self, factor: str, label: int, **options):
        super().__init__(**options)
        self.column, self.label = FACTORS.index(factor), label

    def _factors(self, indices):
        table = super()._factors(indices)
        table[:, self.column] = self.label
        return table


def digest(images):
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()


def test_same_images_and_labels_in_a_fresh_process():
    program = (
        "import hashlib; from hjepa.data.scenes import Scenes;"
        "s = Scenes('test', size=40, seed=7, length=900);"
        "images = s.batch(range(0, 900, 30));"
        "print(hashlib.sha256(images.tobytes() + s.labels['shape'].tobytes()).hexdigest())"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    scenes = Scenes("test", size=40, seed=7, length=900)
    images = scenes.batch(range(0, 900, 30))
    assert printed.strip() == hashlib.sha256(images.tobytes() + scenes.labels["shape"].tobytes()).hexdigest()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, len(SCENES) - 1), min_size=1, max_size=30))
def test_an_image_has_the_same_bits_alone_and_in_any_batch(indices):
    batch = SCENES.batch(indices)
    assert batch.shape == (len(indices), 64, 64, 3) and batch.dtype == np.uint8
    for row, index in enumerate(indices):
        assert np.array_equal(batch[row], SCENES[index])


def test_content_does_not_depend_on_length_and_goes_on_for_ever():
    short, endless = Scenes(length=10), Scenes(length=2**40)
    assert np.array_equal(short[9], endless[9])
    far = endless.batch([2**40 - 1, 2**40 - 2, 9])
    assert len({digest(image) for image in far}) == 3


def test_train_test_and_seeds_share_no_image():
    sets = [Scenes("train"), Scenes("test"), Scenes("train", seed=1), Scenes("test", seed=1)]
    hashes = [digest(image) for scenes in sets for image in scenes.batch(range(150))]
    assert len(set(hashes)) == len(hashes) == 600
    # Nor do they share what is drawn before noise is added.
    factors = [np.stack(list(scenes.labels.values()))[:, :1000] for scenes in sets]
    for one, other in itertools.combinations(factors, 2):
        assert np.all(one == other, axis=0).mean() < 0.01  # by chance 1 in 512


def test_labels_are_those_of_the_drawn_images():
    scenes = Scenes(length=300)
    assert list(scenes.labels) == list(FACTORS) == list(FACTOR_CLASSES)
    for factor in FACTORS:
        labels = scenes.labels[factor]
        assert labels.dtype == np.int64 and labels.shape == (300,)
        for index in range(12):  # drawing with the label forced to what `labels` says changes nothing
            forced = FixedFactor(factor, int(labels[index]))
            assert np.array_equal(forced[index], scenes[index])


@pytest.mark.parametrize("split", ["train", "test"])
def test_classes_are_balanced_and_factors_independent(split):
    labels = Scenes(split, length=20_000).labels
    for factor in FACTORS:
        counts = np.bincount(labels[factor], minlength=FACTOR_CLASSES[factor])
        assert len(counts) == FACTOR_CLASSES[factor]
        assert chisquare(counts).pvalue > 1e-3
    for one, other in itertools.combinations(FACTORS, 2):
        table = np.zeros((FACTOR_CLASSES[one], FACTOR_CLASSES[other]))
        np.add.at(table, (labels[one], labels[other]), 1)
        assert chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("factor", FACTORS)
def test_every_class_of_a_factor_looks_different(factor):
    images = [FixedFactor(factor, label).batch(range(20)) for label in range(FACTOR_CLASSES[factor])]
    for one, other in itertools.combinations(images, 2):
        changed = (np.abs(one.astype(int) - other) > 12).any(axis=3).mean(axis=(1, 2))  # share of pixels
        assert changed.min() > 0.005


@pytest.mark.parametrize("factor", FACTORS)
def test_the_mean_colour_says_nothing_about_a_factor(factor):
    # Paired: the same 400 scenes in every class, so that a shift of two levels of 255 shows although the
    # mean colour varies by about 40 from scene to scene. (Shapes with a longer rim are 1.5 levels darker.)
    means = [
        FixedFactor(factor, label, size=32).batch(range(400)).mean(axis=(1, 2))
        for label in range(FACTOR_CLASSES[factor])
    ]
    assert np.std(means[0], axis=0).min() > 30
    shift = np.mean(means, axis=1) - np.mean(means, axis=(0, 1))  # [classes, 3]
    assert np.abs(shift).max() < 2


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_the_area_of_the_unit_disc(shape):
    line = (np.arange(600, dtype=np.float32) + 0.5) / 600 * 4 - 2
    x, y = np.meshgrid(line, line)
    area = (SHAPES[shape](x, y) < 0).mean() * 16
    assert area == pytest.approx(np.pi, rel=0.02)


@pytest.mark.parametrize("texture", TEXTURES)
def test_textures_show_both_tones(texture):
    line = np.arange(400, dtype=np.float32) * np.float32(0.05)
    x, y = np.meshgrid(line, line)
    height = TEXTURES[texture](x, y)
    assert height.dtype == np.float32
    assert 0.25 < (height > 0).mean() < 0.75


@pytest.mark.parametrize("size", [16, 33, 96, (48, 80), (90, 30)])
def test_any_size_is_drawn_and_filled(size):
    scenes = Scenes(size=size)
    height, width = (size, size) if isinstance(size, int) else size
    images = scenes.batch(range(25))
    assert images.shape == (25, height, width, 3)
    assert np.array_equal(images[24], scenes[24])
    # Nothing is left undrawn: each quarter of each image has structure (noise, light, ground, objects).
    for rows, columns in itertools.product(np.array_split(range(height), 2), np.array_split(range(width), 2)):
        assert images[:, rows][:, :, columns].std(axis=(1, 2)).min() > 0


def test_sizes_show_the_same_scene():
    small, large = Scenes(size=64).batch(range(30)), Scenes(size=128).batch(range(30))
    shrunk = large.reshape(30, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    # The noise differs; means of 8 x 8 pixels hardly do (another scene differs by about 50).
    blocks = [z.reshape(30, 8, 8, 8, 8, 3).mean(axis=(2, 4)) for z in (small, shrunk)]
    assert np.abs(blocks[0] - blocks[1]).mean(axis=(1, 2, 3)).max() < 3


@pytest.mark.parametrize("index", [-1, 5, 2**40])
def test_indices_outside_the_length_are_refused(index):
    with pytest.raises(IndexError, match=r"^scenes has images 0 to 4; asked for"):
        Scenes(length=5)[index]
    with pytest.raises(IndexError):
        Scenes(length=5).batch([0, index])


def test_iteration_ends_and_an_empty_batch_is_empty():
    assert len(list(itertools.islice(Scenes(length=3, size=16), 10))) == 3
    assert Scenes(size=16).batch([]).shape == (0, 16, 16, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "scenes has no split 'val'; use 'train' or 'test'"),
        ({"length": 0}, "scenes cannot have length 0; use 1 or more"),
        ({"size": (8, 64)}, "scenes cannot be drawn at 8x64 pixels; use at least 16 a side"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(options, message):
    with pytest.raises(UserError) as caught:
        Scenes(**options)
    assert str(caught.value) == message


def test_the_fingerprint_names_everything_that_defines_the_content():
    prints = {
        Scenes(**options).fingerprint()
        for options in ({}, {"split": "test"}, {"length": 9}, {"size": 32}, {"size": (32, 64)}, {"seed": 1})
    }
    assert len(prints) == 6
    assert Scenes().fingerprint() == "scenes-v2 split=train length=50000 size=64x64 seed=0"
