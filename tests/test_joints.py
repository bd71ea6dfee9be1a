"""Where parts meet: what each does rightly alone, and what went wrong between them."""

import io
import json
import re
import tarfile
import zipfile

import numpy as np
import pytest
from commands import call
from conftest import TINY, tiny, tiny_options
from deep_images import deep_png_bytes
from PIL import Image
from runs import pictures

import hjepa
from hjepa.config import derive
from hjepa.data import cache
from hjepa.data.reduce import Reduction
from hjepa.data.sources import open_source
from hjepa.errors import UserError
from hjepa.runs.resume import refuse_other_depth


def write_photos(folder, count=12, size=16):
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(pictures(count, size=size).images):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def run(tmp_path):
    return hjepa.pretrain(pictures(), out=tmp_path / "run", **(TINY | {"train": TINY["train"] | {"length": 2}})).path


def test_the_list_of_check_never_replaces_a_file_of_the_user(tmp_path):
    write_photos(tmp_path / "photos")
    listed = tmp_path / "list.csv"
    listed.write_text("path,label\nphotos/00.png,cat\nphotos/01.png,dog\n")
    done = call("check", listed, "--list", listed)
    assert done.returncode == 2 and re.search(
        r"--list .*list\.csv: exists, and hjepa check did not write it", done.stderr
    )
    assert listed.read_text().startswith("path,label\n")
    assert call("check", listed, "--list", tmp_path / "found.csv").returncode == 0
    assert call("check", listed, "--list", tmp_path / "found.csv").returncode == 0  # its own list it replaces


def test_a_run_is_not_resumed_with_another_number_of_bits():
    eight = tiny()
    sixteen = derive(eight, {"data.value_range": ((0.0, 60000.0), "measured")})
    refuse_other_depth(eight.config, eight.config)
    for before, now, said in [(eight, sixteen, "with 8 bits.*installed"), (sixteen, eight, "all their bits.*removed")]:
        with pytest.raises(UserError, match=said):
            refuse_other_depth(before.config, now.config)


def test_a_cache_is_another_one_once_more_bits_are_read(monkeypatch):
    key = cache.cache_key(Reduction((16, 16)), 3)
    assert key == cache.cache_key(Reduction((16, 16)), 3)
    monkeypatch.setattr(cache, "installed_version", lambda package: None if package == "imagecodecs" else "1")
    assert key != cache.cache_key(Reduction((16, 16)), 3)


def test_check_sees_the_bits_of_deep_colours_as_a_run_does(tmp_path):
    (tmp_path / "photos").mkdir()
    for seed in range(4):
        (tmp_path / "photos" / f"{seed}.png").write_bytes(deep_png_bytes(seed))
    source = open_source(tmp_path / "photos")
    assert source[0].dtype == np.uint16
    done = call("check", tmp_path / "photos")
    assert done.returncode == 0 and "uint16" in done.stdout and " of 8 bits" not in done.stdout


def archive_of(folder, kind):
    file = folder.with_suffix(f".{kind}")
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, path.name)
    else:
        with tarfile.open(file, "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name)
    return file


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_vectors_of_an_archive_find_their_pictures(run, tmp_path, kind):
    photos = write_photos(tmp_path / "photos")
    (photos / "copy.png").write_bytes((photos / "03.png").read_bytes())
    file = archive_of(photos, kind)
    hjepa.embed(run, file, out=tmp_path / "v.npy")
    found = hjepa.search(run, tmp_path / "v.npy", photos / "03.png", top=2)
    assert all(found.pictures.pixels(each.index, each.path) is not None for each in found.results[0].matches)
    done = call("duplicates", run, tmp_path / "v.npy", "--json")
    assert done.returncode == 0, done.stderr


def test_an_export_is_compared_on_images_that_can_be_read(run, tmp_path):
    photos = write_photos(tmp_path / "photos", 8)
    (photos / "02.png").write_bytes(b"no image")
    done = call("export", run, "--to", "timm", "--out", tmp_path / "timm", "--images", photos)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "timm" / "model.safetensors").is_file()


def test_a_row_without_an_image_is_one_unreadable_image(tmp_path):
    datasets = pytest.importorskip("datasets")
    held = io.BytesIO()
    Image.fromarray(pictures(1).images[0]).save(held, "png")
    rows = {"image": [{"bytes": held.getvalue(), "path": None}] * 7 + [None]}
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    source = open_source(f"hf:{tmp_path / 'saved'}")
    assert source.fingerprint() == open_source(f"hf:{tmp_path / 'saved'}").fingerprint()
    assert source[0].shape == (16, 16, 3)


def test_content_is_compared_on_the_same_images_after_a_bad_one_was_replaced(tmp_path):
    photos = write_photos(tmp_path / "photos", 48)
    good = (photos / "05.png").read_bytes()
    (photos / "05.png").write_bytes(b"no image")
    words = ("--out", tmp_path / "run", *tiny_options(train__length=8, data__max_bad="10%"))
    assert call("pretrain", photos, *words).returncode == 0
    (photos / "05.png").write_bytes(good)
    done = call("pretrain", photos, "--out", tmp_path / "run", "--resume", "--extend-to", "12")
    assert done.returncode == 0, done.stderr
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["content_step"] == 12 and np.isfinite(last["content_linear_error"])


@pytest.mark.parametrize("setting", ["on", "FOLDER"])
def test_a_cache_that_cannot_be_is_refused(tmp_path, setting):
    file = archive_of(write_photos(tmp_path / "photos"), "zip")
    words = tiny_options(data__cache=tmp_path if setting == "FOLDER" else setting)
    done = call("pretrain", file, "--out", tmp_path / "run", *words)
    assert done.returncode == 2 and re.search(r"data\.cache = .*unpack the images into a folder", done.stderr)


def test_a_shard_holds_images_of_any_ending(tmp_path):
    with tarfile.open(tmp_path / "s-0.tar", "w") as shard:
        for number, pixels in enumerate(pictures(4).images):
            held = io.BytesIO()
            Image.fromarray(pixels).save(held, "jpeg")
            for ending, content in (("jfif", held.getvalue()), ("cls", str(number % 2).encode())):
                info = tarfile.TarInfo(f"{number}.{ending}")
                info.size = len(content)
                shard.addfile(info, io.BytesIO(content))
    source = open_source(f"wds:{tmp_path / 's-0.tar'}")
    assert len(source) == 4 and source.labels["label"].tolist() == [0, 1, 0, 1]
