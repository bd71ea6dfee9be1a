"""A run that waits for its images says so once, and keeps decoded images if that helps."""

import os
import re
from collections import namedtuple

import numpy as np
import pytest
from commands import call, last_weights, metrics
from conftest import tiny, tiny_options
from PIL import Image
from runs import pictures, same

from hjepa.data.augment import Augment, ResizeToInput
from hjepa.data.loader import MicroBatchDataset
from hjepa.data.sources import open_source
from hjepa.data.training_images import default_root
from hjepa.runs import waiting
from hjepa.runs.waiting import WaitingForImages, free_space

OPTIONS = tiny_options(optim__batch_size=8, train__length=10, train__log_every=2)
SLOW = {"step": 2, "data_wait": 0.43}


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """Return a folder of images that take much longer to decode than a step."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((480, 360), Image.Resampling.NEAREST).save(folder / f"{number}.png")
    return folder


@pytest.mark.slow
def test_a_run_begins_a_cache_and_computes_the_same(scans, tmp_path):
    done = call("pretrain", scans, "--out", tmp_path / "cached", *OPTIONS)
    assert done.returncode == 0, done.stderr
    said = re.findall(r"^waiting for images takes \d+% .*$", done.stdout, re.MULTILINE)
    assert len(said) == 1
    assert re.search(
        r"decoding is [\d.]+ of [\d.]+ ms per image: decoded images are kept in .*decoded.*--data\.cache off", said[0]
    )
    assert list(default_root().glob("*/*.bin"))
    off = call("pretrain", scans, "--out", tmp_path / "plain", *OPTIONS, "--data.cache", "off")
    assert re.search(r"^waiting for images takes .*: --resume with --data\.cache on keeps", off.stdout, re.MULTILINE)
    assert same(last_weights(tmp_path / "cached"), last_weights(tmp_path / "plain"))
    assert metrics(tmp_path / "cached") == metrics(tmp_path / "plain")
    more = call("pretrain", scans, "--out", tmp_path / "plain", "--resume", "--extend-to", "12", "--data.cache", "on")
    assert more.returncode == 0, more.stderr


def watch(source, *, cache="auto", workers=0, length=40):
    config = tiny(train={"length": length}, data={"workers": workers, "cache": cache}).config
    augment = Augment(ResizeToInput((16, 16), 3), (0.5, 1.0), (0.75, 4 / 3), 0.0)
    data = MicroBatchDataset(source, augment, seed=0, batch_size=8, cache=cache)
    return WaitingForImages(config, data), data


def test_nothing_is_said_below_a_fifth_or_of_the_start(scans):
    watching, data = watch(open_source(scans))
    assert watching.notices(SLOW, 100) == []  # the start of the workers
    assert watching.notices(SLOW | {"data_wait": 0.2}, 100) == []
    assert len(watching.notices(SLOW | {"data_wait": 0.21}, 100)) == 1
    assert watching.notices(SLOW, 100) == [] and data.images.is_cached


def second(watching, total_steps=100):
    watching.notices(SLOW, total_steps)
    (text,) = watching.notices(SLOW, total_steps)
    return text


def test_what_helps_is_said(scans, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert second(watch(pictures())[0]).endswith("43% of the time: try more loader processes, --data.workers 2 (now 0)")
    assert "--data.workers 4 (now 2)" in second(watch(pictures(), workers=2)[0])
    assert "32 pixels on the shorter side" in second(watch(pictures(), workers=4)[0])
    nearly_over, data = watch(open_source(scans))
    assert "--data.workers" in second(nearly_over, 3) and not data.images.is_cached  # nobody would read it


def test_a_set_without_room_is_not_kept(scans, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(waiting.shutil, "disk_usage", lambda _folder: usage(9, 8, 1000))
    watching, data = watch(open_source(scans))
    assert re.search(r"has no room in .*decoded .*--data\.cache FOLDER$", second(watching))
    assert not data.images.is_cached


def test_small_images_are_not_kept(tmp_path):
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.bmp")
    watching, data = watch(open_source(tmp_path))
    decoding = watching._measure()
    watching._measure = lambda: decoding._replace(decode=decoding.rest * 0.9)
    assert "--data.workers" in second(watching) and not data.images.is_cached


def test_free_space_of_a_folder_that_is_not_there(tmp_path):
    assert free_space(tmp_path / "a" / "b") == pytest.approx(free_space(tmp_path), rel=0.1)
