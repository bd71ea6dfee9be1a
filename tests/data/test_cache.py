"""Decoded images on disk: the same to the last bit, whoever reads them and whatever happens to the files."""

import itertools
import multiprocessing
import os
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image

from hjepa.config.images import DataConfig
from hjepa.data.augment import Augment, ResizeToInput
from hjepa.data.cache import DecodedCache, cache_key
from hjepa.data.loader import MicroBatchDataset, RankShard, micro_batches
from hjepa.data.reduce import Reduction
from hjepa.data.sources import open_source
from hjepa.data.training_images import TrainingImages, default_root
from hjepa.errors import UserError

CROPS = Augment(ResizeToInput((16, 16), 3), (0.3, 1.0), (0.75, 4 / 3), flip=0.5)


def write_photos(folder, count=30, bad=()):
    """Write photographs of several kinds and sizes; the largest are read at a third of their size."""
    folder.mkdir()
    for number in range(count):
        random = np.random.default_rng(number)
        side = (24, 60, 140)[number % 3]
        pixels = random.integers(0, 255, (side, side + 9, 3), dtype=np.uint8)
        kind = ("png", "jpg", "webp")[number // 3 % 3]
        if number % 10 == 9:
            Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(folder / f"{number:02}.png")
        else:
            Image.fromarray(pixels).save(folder / f"{number:02}.{kind}")
    for path in [path for path in sorted(folder.iterdir()) if int(path.stem) in bad]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    return folder


def batches(folder, cache, *, workers=0, attempts=9):
    resize = ResizeToInput((16, 16), 3, value_range=(0.0, 51000.0))
    augment = Augment(resize, (0.3, 1.0), (0.75, 4 / 3), flip=0.5)
    data = MicroBatchDataset(open_source(folder, 3), augment, seed=5, batch_size=10, max_bad=0.2, cache=str(cache))
    stream = micro_batches(data, RankShard(10), first_attempt=0, workers=workers)
    return torch.stack(list(itertools.islice(stream, attempts))), sorted(image.number for image in data.bad)


def test_batches_are_identical_with_workers_cache_and_bad_files(tmp_path):
    photos = write_photos(tmp_path / "photos", bad=(4, 17))
    expected, bad = batches(photos, "off")
    assert bad == [4, 17]
    for workers, cache in itertools.product((0, 1, 2), ("off", "cold", "warm")):
        place = cache if cache == "off" else tmp_path / f"cache{workers}"
        found, also_bad = batches(photos, place, workers=workers)
        assert torch.equal(found, expected) and also_bad == bad, (workers, cache)
    assert torch.equal(batches(photos, tmp_path / "cache0", workers=2)[0], expected)  # written by another process


@pytest.fixture(scope="module")
def one_in_a_hundred(tmp_path_factory):
    """Return a hundred small photographs, 1 % of them damaged, and the batches read without workers or cache."""
    photos = tmp_path_factory.mktemp("damaged") / "photos"
    photos.mkdir()
    for number in range(100):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number:03}.{('png', 'jpg')[number % 2]}")
    (photos / "042.png").write_bytes((photos / "042.png").read_bytes()[:500])
    return photos, default_batches(photos, "off")


def default_batches(folder, cache, *, workers=0):
    """Return the batches of an epoch and a half, as a run with the default data.max_bad reads them."""
    data = MicroBatchDataset(
        open_source(folder), CROPS, seed=5, batch_size=20, max_bad=DataConfig().max_bad, cache=str(cache)
    )
    stream = micro_batches(data, RankShard(20), first_attempt=0, workers=workers)
    return torch.stack(list(itertools.islice(stream, 8))), sorted(image.number for image in data.bad)


@pytest.mark.parametrize("cache", ["off", "on"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_with_one_file_in_a_hundred_damaged(one_in_a_hundred, tmp_path, workers, cache):
    """The same images in the same places, and the same file counted: a first epoch, and what is kept of it."""
    photos, (expected, bad) = one_in_a_hundred
    assert bad == [42]
    for _ in range(1 if cache == "off" else 2):
        found, also_bad = default_batches(photos, cache if cache == "off" else tmp_path / "cache", workers=workers)
        assert torch.equal(found, expected) and also_bad == bad


@pytest.fixture
def cached(tmp_path):
    """Return a folder of photographs, and the cache that holds them all."""
    photos = write_photos(tmp_path / "photos", 9)
    images = TrainingImages(open_source(photos, 3), CROPS.reduction, str(tmp_path / "cache"))
    for index in range(9):
        images[index]
    return photos, images


def counting(images, monkeypatch):
    """Return a list that receives the number of each image that is decoded."""
    decoded, original = [], images.decoded
    monkeypatch.setattr(images, "decoded", lambda index: decoded.append(index) or original(index))
    return decoded


def again(photos, images):
    return TrainingImages(open_source(photos, 3), images.reduction, str(images.root))


def test_each_image_is_decoded_once(cached, monkeypatch):
    photos, images = cached
    fresh = again(photos, images)
    decoded = counting(fresh, monkeypatch)
    for index in (*range(9), *range(9)):
        assert np.array_equal(fresh[index], images.decoded(index))
    assert decoded == [] and len(fresh.cache) == 9
    assert not fresh[0].flags.writeable and not fresh[0].flags.owndata  # it lies in the memory map


def test_it_is_known_by_content(cached, monkeypatch):
    """A copy and another name are known; another content under the same name, size and time is not."""
    photos, images = cached
    copy = photos.with_name("copy")
    shutil.copytree(photos, copy)
    names = sorted(path.name for path in copy.iterdir())
    (copy / names[0]).rename(copy / f"zz-{names[0]}")
    os.utime(copy / names[1], (0, 0))
    fresh = again(copy, images)
    decoded = counting(fresh, monkeypatch)
    for index in range(9):
        assert np.array_equal(fresh[index], fresh.source.reduced(index, fresh.reduction))
    assert decoded == []
    bitmap = copy / "new.bmp"
    Image.new("RGB", (50, 50), "red").save(bitmap)
    fresh = again(copy, images)
    place = list(fresh.source.paths).index(bitmap)
    assert fresh[place][0, 0].tolist() == [255, 0, 0]
    before = bitmap.stat()
    Image.new("RGB", (50, 50), "blue").save(bitmap)
    os.utime(bitmap, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert bitmap.stat().st_size == before.st_size and bitmap.stat().st_mtime_ns == before.st_mtime_ns
    for reader in (fresh, again(copy, images)):
        assert reader[place][0, 0].tolist() == [0, 0, 255]


def test_other_settings_have_pixels_of_their_own():
    keys = {cache_key(r, c) for r in (CROPS.reduction, Reduction((16, 16)), Reduction((17, 16))) for c in (1, 3)}
    assert len(keys) == 6


@pytest.mark.parametrize("damage", ["pixels", "pixels cut", "row", "row cut", "gone", "not a cache"])
def test_a_damaged_cache_is_decoded_again(cached, damage):
    photos, images = cached
    pixels, rows = (next(images.folder.glob(f"*.{kind}")) for kind in ("bin", "idx"))
    if damage == "pixels":
        content = bytearray(pixels.read_bytes())
        content[5], content[-5] = content[5] ^ 1, content[-5] ^ 1
        pixels.write_bytes(content)
    elif damage == "row":
        content = bytearray(rows.read_bytes())
        content[60] ^= 1
        rows.write_bytes(content)
    elif damage == "gone":
        pixels.unlink()
    elif damage == "not a cache":
        rows.write_bytes(os.urandom(5000))
    else:
        file = rows if damage == "row cut" else pixels
        file.write_bytes(file.read_bytes()[:-7])
    for _ in range(2):
        fresh = again(photos, images)
        for index in range(9):
            assert np.array_equal(fresh[index], images.decoded(index)), (damage, index)


def write_many(folder, number):
    cache = DecodedCache(folder)
    for _ in range(20):
        for path in sorted((folder.parent / "photos").iterdir()):
            cache.get(path, lambda path=path: np.full((40, 30, 3), int(path.stem) + number, np.uint8))


def test_processes_fill_it_at_once_and_may_be_killed(tmp_path):
    write_photos(tmp_path / "photos")
    folder = tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_many, args=(folder, 0)) for _ in range(4)]
    for process in processes:
        process.start()
    time.sleep(0.02)
    processes[0].kill()
    for process in processes:
        process.join()
    cache = DecodedCache(folder)
    for path in sorted((tmp_path / "photos").iterdir()):
        found = cache.get(path, lambda path=path: pytest.fail(f"{path} was not kept"))
        assert (found == int(path.stem)).all()


def test_it_may_be_switched_on_while_workers_run(tmp_path):
    photos = write_photos(tmp_path / "photos")
    expected, _ = batches(photos, "off", attempts=12)
    data = MicroBatchDataset(
        open_source(photos, 3),
        Augment(ResizeToInput((16, 16), 3, value_range=(0.0, 51000.0)), (0.3, 1.0), (0.75, 4 / 3), flip=0.5),
        seed=5, batch_size=10, max_bad=0.2, cache="auto",
    )  # fmt: skip
    assert not data.images.is_cached
    stream = micro_batches(data, RankShard(10), first_attempt=0, workers=2)
    found = [next(stream) for _ in range(2)]
    data.images.switch_on()
    found += [next(stream) for _ in range(10)]
    assert torch.equal(torch.stack(found), expected)
    assert len(data.images.cache) == 30
    other = TrainingImages(open_source(photos, 3), data.images.reduction, "auto")
    assert other.is_cached  # an earlier run has left it
    elsewhere = TrainingImages(open_source(write_photos(tmp_path / "more"), 3), data.images.reduction, "auto")
    assert not elsewhere.is_cached  # of other images nobody has said so


def test_a_full_disk_does_not_stop_training(cached, monkeypatch):
    photos, images = cached
    fresh = TrainingImages(open_source(photos, 3), Reduction((8, 8)), str(images.root))
    monkeypatch.setattr("hjepa.data.cache.KEEP_FREE", 10**18)
    monkeypatch.setattr("hjepa.data.cache.ASK_AGAIN", 0)
    assert np.array_equal(fresh[0], fresh.decoded(0)) and len(fresh.cache) == 0


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    source = open_source(write_photos(tmp_path / "photos", 2), 3)
    with pytest.raises(UserError, match=r"^data\.cache = .*file/cache: .*file is not a writable folder: .*cache off"):
        TrainingImages(source, CROPS.reduction, str(tmp_path / "file" / "cache"))


def test_nothing_is_written_before_the_first_image(tmp_path):
    source = open_source(write_photos(tmp_path / "photos", 2), 3)
    images = TrainingImages(source, CROPS.reduction, str(tmp_path / "cache"))
    images.look_for_cache()
    assert images.is_cached and not (tmp_path / "cache").exists()
    assert not TrainingImages(source, CROPS.reduction, "auto").is_cached
    images[0]
    images.look_for_cache()
    assert len(list((tmp_path / "cache").glob("*/*.set"))) == 1


def test_the_folder_is_where_caches_belong(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "hjepa" / "decoded"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_root().parts[-3:] == (".cache", "hjepa", "decoded")
