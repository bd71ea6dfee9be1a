"""Unreadable images: which image takes their place, and when there are too many."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hjepa.data.augment import Augment, ResizeToInput
from hjepa.data.bad_images import BadImage, BadImages, replacements
from hjepa.data.decode import read_image
from hjepa.data.loader import MicroBatchDataset, RankShard, micro_batches, read
from hjepa.data.sources import open_source
from hjepa.errors import UnreadableImage, UserError

PLAIN = Augment(ResizeToInput((16, 16), 3), None, (1, 1), flip=0.0)


def write_numbered(folder, count, bad=()):
    """Write images whose red is their number; those in ``bad`` are damaged in one of four ways."""
    for number in range(count):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / f"{number:03}.png")
    for number in bad:
        path = folder / f"{number:03}.png"
        path.write_bytes([b"", b"damaged", path.read_bytes()[:45]][number % 3])
    return folder


def batches(folder, *, workers=0, processes=1, attempts=6, max_bad=0.5):
    """Return the red of every image of some attempts, and the unreadable images met."""
    source, rows, met = open_source(folder), [], {}
    for process in range(processes):
        data = MicroBatchDataset(source, PLAIN, seed=3, batch_size=8, max_bad=max_bad)
        stream = micro_batches(data, RankShard(8, processes, process), first_attempt=0, workers=workers)
        rows.append(torch.stack([batch[:, 0, 0, 0] for batch in itertools.islice(stream, attempts)]))
        met |= {image.number: image for image in data.bad}
    return torch.cat(rows, 1).tolist(), met


def test_the_same_image_takes_its_place_whoever_reads_it(tmp_path):
    write_numbered(tmp_path, 40, bad=(3, 7, 20))
    (expected, met), *others = [
        batches(tmp_path, workers=w, processes=p) for w, p in ((0, 1), (1, 1), (2, 1), (0, 2), (0, 4))
    ]
    assert all(other[0] == expected for other in others)
    assert set(met) == {3, 7, 20} == set(others[2][1])
    assert not {3, 7, 20} & set(np.ravel(expected).tolist())
    gone = tmp_path / "007.png"
    gone.unlink()
    gone.write_bytes(b"damaged in another way")
    assert batches(tmp_path)[0] == expected


def test_every_kind_of_damage_is_named(tmp_path):
    write_numbered(tmp_path, 6, bad=(0, 1, 2))
    source = open_source(tmp_path)
    (tmp_path / "003.png").unlink()
    (tmp_path / "004.png").unlink()
    (tmp_path / "004.png").mkdir()
    bad = BadImages(6, 1.0)
    assert read(source, 0, bad)[0, 0, 0] == 5
    told = [image.problem for image in bad]
    expected = ["file is empty", "not an image file", "truncated", "file is gone", "is a directory"]
    assert len(told) == 5 and all(part in problem for part, problem in zip(expected, told, strict=True)), told
    assert {image.name for image in bad} == {str(tmp_path / f"00{number}.png") for number in range(5)}


def test_an_evaluation_skips_nothing(tmp_path):
    write_numbered(tmp_path, 3, bad=(1,))
    with pytest.raises(UnreadableImage, match=r"001\.png: cannot decode.*replace it"):
        read(open_source(tmp_path), 1)
    with pytest.raises(UnreadableImage, match=r"nowhere\.png does not exist"):
        read_image(tmp_path / "nowhere.png")


def test_nothing_readable_ends(tmp_path):
    write_numbered(tmp_path, 3, bad=(0, 1, 2))
    with pytest.raises(UserError, match=r"none of its 3 images"):
        batches(tmp_path, max_bad=1.0)


@given(images=st.integers(1, 5000), bad=st.integers(0, 60), max_bad=st.floats(0, 1))
def test_more_than_the_fraction_is_refused(images, bad, max_bad):
    bad = min(bad, images)
    met = BadImages(images, max_bad)
    met.add(BadImage(number, f"{number}.png", "damaged") for number in [*range(bad), *range(bad)])
    assert len(met) == bad
    if bad <= max_bad * images:
        met.refuse_too_many()
        return
    with pytest.raises(UserError, match=rf"^0\.png: damaged; {bad} of {images:,} images .*data\.max_bad") as refused:
        met.refuse_too_many()
    share = float(str(refused.value).rpartition(" ")[2].removesuffix("%")) / 100
    assert bad <= share * images


def test_files_that_were_removed_do_not_count():
    met = BadImages(10, 0.0, removed=[4])
    met.add([BadImage(4, "4.png", "the file is gone")])
    met.refuse_too_many()
    met.add([BadImage(5, "5.png", "the file is gone")])
    with pytest.raises(UserError, match=r"^5\.png: the file is gone; 1 of 10 images"):
        met.refuse_too_many()


@given(seed=st.integers(0, 9), images=st.integers(1, 90), attempt=st.integers(0, 9), row=st.integers(0, 99))
def test_replacements_reach_every_image_and_repeat(seed, images, attempt, row):
    first = list(replacements(seed, images, attempt, row))
    assert first == list(replacements(seed, images, attempt, row))
    assert set(first) == set(range(images))
    if images == 90:
        assert first[:9] != list(replacements(seed, images, attempt + 1, row))[:9]
        assert first[:9] != list(replacements(seed, images, attempt, row + 1))[:9]
