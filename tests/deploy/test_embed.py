"""hjepa embed: what is in the file, in each format, at each level; what is refused; what is unreadable."""

import csv
import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from commands import call
from deployed import noise, write_encoder, write_images
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf

import hjepa
from hjepa.data.augment import ResizeToInput
from hjepa.data.loader import ResizedImages
from hjepa.data.sources import FileSource, open_source
from hjepa.deploy.embed.output import agreed_by_all
from hjepa.deploy.reading import file_named, image_name, read_once
from hjepa.errors import UserError
from hjepa.evaluation.features import extract
from hjepa.evaluation.levels import views_of

EXACTLY = {"precision": "float32", "batch_size": 4, "workers": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("deploy") / "run")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("deploy") / "photos", 10, size=24)


def reference(run: Path, photos: Path, *, pooling: str = "avg", level: str = "last") -> np.ndarray:
    """Return the features that ``hjepa evaluate`` probes."""
    encoder = hjepa.load_encoder(run)
    images = ResizedImages(open_source(photos, 3), ResizeToInput((16, 16), 3))
    return extract(views_of(encoder, level), images, [pooling])[pooling]


@pytest.mark.parametrize("ending", ["npy", "parquet", "csv"])
def test_a_file_of_each_format_holds_the_same(run, photos, tmp_path, ending):
    found = hjepa.embed(run, photos, out=tmp_path / f"v.{ending}", **EXACTLY)
    np.testing.assert_allclose(found.vectors, reference(run, photos), atol=1e-5)
    again = hjepa.open_embeddings(tmp_path / f"v.{ending}")
    assert np.array_equal(again.vectors, found.vectors) and again.images == found.images
    paths = open_source(photos, 3).paths
    assert found.paths == list(map(str, paths)) and found.errors == [""] * 10
    assert found.content_hashes == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert np.array_equal(hjepa.embed(run, photos, **EXACTLY).vectors, found.vectors)  # in memory
    assert sorted(each.name.removeprefix(f"v.{ending}") for each in tmp_path.iterdir()) == {
        "npy": ["", ".json", ".rows.csv"], "parquet": [""], "csv": ["", ".json"],
    }[ending]  # fmt: skip


@pytest.mark.parametrize(("pooling", "level"), [
    ("avg", "last"), ("last4", "last"), ("grid4", "last"), ("avg", "0"), ("grid4", "1"),
])  # fmt: skip
def test_every_pooling_and_level_is_that_of_the_evaluation(run, photos, pooling, level):
    found = hjepa.embed(run, photos, pooling=pooling, level=level, **EXACTLY)
    assert list(found.levels) == [level]
    np.testing.assert_allclose(found.vectors, reference(run, photos, pooling=pooling, level=level), atol=1e-5)


def test_all_levels_are_rows_of_their_own(run, photos, tmp_path):
    found = hjepa.embed(run, photos, level="all", out=tmp_path / "v.npy", **EXACTLY)
    assert list(found.levels) == ["0", "1"]
    for level, vectors in found.levels.items():
        assert np.array_equal(vectors, hjepa.embed(run, photos, level=level, **EXACTLY).vectors)
    whole = np.load(tmp_path / "v.npy", mmap_mode="r")
    with (tmp_path / "v.npy.rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert whole.shape == (20, 32) and [row["level"] for row in rows] == ["0", "1"] * 10
    assert np.array_equal(whole[1::2], found.levels["1"])
    with pytest.raises(UserError, match=r"holds the levels 0, 1.*\.levels"):
        _ = found.vectors


def test_a_level_that_is_not_the_last_block_is_joined_by_it(photos, tmp_path):
    run = write_encoder(tmp_path / "run", levels=((1, 1),))
    found = hjepa.embed(run, photos, level="all", **EXACTLY)
    assert list(found.levels) == ["0", "last"]
    np.testing.assert_allclose(found.levels["last"], reference(run, photos), atol=1e-5)


def test_patches_keep_their_place(run, photos, tmp_path):
    found = hjepa.embed(run, photos, pooling="patches", out=tmp_path / "v.npy", **EXACTLY)
    assert np.load(tmp_path / "v.npy").shape == found.vectors.shape == (10, 4, 4, 32)
    image = ResizeToInput((16, 16), 3)(open_source(photos, 3)[7])
    tokens = hjepa.load_encoder(run)(image[None]).tokens
    torch.testing.assert_close(torch.tensor(found.vectors[7]).flatten(0, 1), tokens[0], atol=1e-5, rtol=1e-5)


def test_patches_of_all_levels_differ_in_shape(run, photos, tmp_path):
    for ending in ("npy", "csv"):
        with pytest.raises(UserError, match=r"0: \[4, 4, 32\], 1: \[2, 2, 32\].*FILE\.parquet"):
            hjepa.embed(run, photos, pooling="patches", level="all", out=tmp_path / f"v.{ending}", **EXACTLY)
    assert list(tmp_path.iterdir()) == []
    stored = hjepa.embed(run, photos, pooling="patches", level="all", out=tmp_path / "v.parquet", **EXACTLY)
    cells = hjepa.load_encoder(run).levels(ResizeToInput((16, 16), 3)(open_source(photos, 3)[3])[None])
    for level, expected in zip(("0", "1"), cells, strict=True):
        np.testing.assert_allclose(stored.levels[level][3], expected[0], atol=1e-5)


def test_parquet_is_a_table_for_everybody(run, photos, tmp_path):
    from pyarrow import parquet

    found = hjepa.embed(run, photos, out=tmp_path / "v.parquet", **EXACTLY)
    table = parquet.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["path", "level", "vector", "content_hash", "error"]
    assert str(table.schema.field("vector").type) == "fixed_size_list<element: float>[32]"
    assert np.array_equal(np.array(table["vector"].to_pylist(), dtype=np.float32), found.vectors)
    assert table["error"].null_count == 10
    assert json.loads(table.schema.metadata[b"hjepa"])["model"]["fingerprint"] == found.metadata["model"]["fingerprint"]


def test_an_unreadable_image_has_its_row_and_shifts_nothing(run, tmp_path):
    photos = write_images(tmp_path / "photos", 10)
    whole = hjepa.embed(run, photos, **EXACTLY)
    damaged = photos / "0004.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    (photos / "0005.png").chmod(0o644)
    done = call("embed", run, photos, "--out", tmp_path / "v.npy", "--precision", "float32", "--batch-size", 4)
    assert done.returncode == 0 and "unreadable 1 of 10 images, whose vectors are NaN" in done.stdout
    assert done.stdout.count(str(damaged)) == 1
    found = hjepa.open_embeddings(tmp_path / "v.npy")
    place = found.paths.index(str(damaged))
    assert found.paths == whole.paths and np.isnan(found.vectors[place]).all()
    assert "cannot decode" in found.errors[place] and found.metadata["unreadable"] == 1
    assert found.content_hashes[place] == hashlib.sha256(damaged.read_bytes()).hexdigest()
    others = np.arange(10) != place
    assert np.array_equal(found.vectors[others], whole.vectors[others])  # to the last bit
    again = call("embed", run, photos, "--out", tmp_path / "v.npy", "--strict", "--json", "--batch-size", 4)
    assert again.returncode == 1
    assert [each["path"] for each in json.loads(again.stdout)["unreadable"]] == [str(damaged)]


def test_images_that_are_all_unreadable_are_an_error(run, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"no image")
    done = call("embed", run, tmp_path / "photos", "--out", tmp_path / "v.npy")
    assert done.returncode == 2 and "none of the 1 images" in done.stderr and "a.png" in done.stderr


def test_features_that_are_not_finite_are_named(photos, tmp_path):
    run = write_encoder(tmp_path / "run")
    state = load_file(run / "encoder.safetensors")
    state["blocks.1.mlp.fc2.bias"][0] = float("nan")
    save_file(state, run / "encoder.safetensors")
    done = call("embed", run, photos, "--out", tmp_path / "v.npy")
    assert done.returncode == 2 and "its features are not finite" in done.stderr


def test_odd_names_stay_one_row_and_are_found_again(run, tmp_path, monkeypatch):
    photos = write_images(tmp_path / "photos", 3)
    names = ["a, b.png", 'quote".png', "line\nbreak.png", "größe.png", os.fsdecode(b"caf\xe9.png")]
    for number, name in enumerate(names):
        Image.fromarray(noise(number)).save(photos / "x.png")
        (photos / "x.png").rename(photos / name)
    for ending in ("npy", "parquet", "csv"):
        found = hjepa.embed(run, photos, out=tmp_path / f"v.{ending}", **EXACTLY)
        assert len(found) == 8 and found.errors == [""] * 8
        assert all("\n" not in path and path.encode() for path in found.paths)
        assert {file_named(path) for path in found.paths} == set(open_source(photos, 3).paths)
    monkeypatch.chdir(tmp_path)
    relative = hjepa.embed(run, "photos", **EXACTLY)
    monkeypatch.chdir("/")
    assert file_named(relative.paths[0]) is None
    assert file_named(relative.paths[0], relative.metadata["images"]["folder"]).is_file()


class CountingPath(type(Path())):
    """A path that counts how often its file is opened for reading."""

    opened = 0

    def open(self, *args, **kwargs):
        type(self).opened += 1
        return super().open(*args, **kwargs)


def test_the_bytes_of_a_file_are_read_once(tmp_path):
    photos = write_images(tmp_path / "photos", 3)
    paths = [CountingPath(path) for path in sorted(photos.rglob("*.png"))]
    source = FileSource("photos", paths, {}, 3)
    CountingPath.opened = 0
    found = read_once(source, 1, ResizeToInput((16, 16), 3))
    assert CountingPath.opened == 1 and found.error == ""
    assert torch.equal(found.pixels, ResizeToInput((16, 16), 3)(source[1]))


def test_images_in_arrays_have_numbers_for_names(run):
    images = np.stack([noise(n) for n in range(5)])
    found = hjepa.embed(run, images, **EXACTLY)
    assert found.paths == [f"image {n}" for n in range(5)] and len(set(found.content_hashes)) == 5
    assert image_name(open_source(images), 3) == "image 3"
    same = hjepa.embed(run, np.concatenate([images[:1], images[:1]]), **EXACTLY)
    assert len(set(same.content_hashes)) == 1


def test_a_complete_file_is_not_written_again(run, photos, tmp_path):
    for ending in ("npy", "parquet", "csv"):
        out = tmp_path / f"v.{ending}"
        hjepa.embed(run, photos, out=out, **EXACTLY)
        before = out.stat().st_mtime_ns
        done = call("embed", run, photos, "--out", out, "--batch-size", 4, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["embedded"] == 0 and out.stat().st_mtime_ns == before
        replaced = call("embed", run, photos, "--out", out, "--batch-size", 4, "--json", "--overwrite")
        assert json.loads(replaced.stdout)["embedded"] == 10


@pytest.mark.parametrize("ending", ["npy", "parquet", "csv"])
def test_a_file_of_other_vectors_is_refused_and_kept(run, photos, tmp_path, ending):
    out = tmp_path / f"v.{ending}"
    hjepa.embed(run, photos, out=out, **EXACTLY)
    before = out.read_bytes()
    other = write_encoder(tmp_path / "other", seed=1)
    fewer = write_images(tmp_path / "fewer", 3)
    for words, reason in [
        ((other, photos), "vectors of another model"),
        ((run, fewer), "vectors of other images"),
        ((run, photos, "--pooling", "grid4"), "pooling avg, now grid4"),
        ((run, photos, "--level", "0"), "level last, now 0"),
        ((run, photos, "--precision", "bf16"), "precision float32, now bf16"),
    ]:
        done = call("embed", *words, "--out", out, "--batch-size", 4)
        assert done.returncode == 2 and reason in done.stderr and "--overwrite" in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
    assert out.read_bytes() == before
    assert call("embed", other, photos, "--out", out, "--overwrite").returncode == 0
    assert out.read_bytes() != before and len(hjepa.open_embeddings(out)) == 10


@pytest.mark.parametrize(("words", "reason"), [
    (("RUN", "PHOTOS", "--out", "v.txt"), r"v\.txt.*\.npy, \.parquet, \.csv"),
    (("RUN", "PHOTOS", "--out", "foreign.npy"), r"foreign\.npy: exists.*name another"),
    (("RUN", "PHOTOS", "--out", "foreign.parquet"), r"foreign\.parquet: exists.*name another"),
    (("RUN", "PHOTOS", "--out", "v.npy", "--pooling", "max"), "unknown pooling 'max'.*avg, last4, grid4, patches"),
    (("RUN", "PHOTOS", "--out", "v.npy", "--pooling", "own"), "unknown pooling 'own'"),
    (("RUN", "PHOTOS", "--out", "v.npy", "--level", "7"), "--level 7.*0 .*choose one of them"),
    (("RUN", "PHOTOS", "--out", "v.npy", "--level", "0", "--pooling", "last4"), "last4 needs the last four"),
    (("RUN", "PHOTOS", "--out", "v.npy", "--batch-size", "0"), "--batch-size 0.*at least 1"),
    (("RUN", "PHOTOS", "--out", "v.npy", "--workers", "-1"), "--workers -1.*at least 0"),
    (("RUN", "PHOTOS", "--out", "v.npy", "--precision", "int8"), "--precision int8.*choose from"),
    (("RUN", "PHOTOS", "--out", "v.npy", "--network", "teacher"), "--network teacher.*target or context"),
    (("RUN", "PHOTOS", "--out", "v.npy", "--network", "context"), "context encoder is only in a run's last"),
    (("nowhere", "PHOTOS", "--out", "v.npy"), "RUN nowhere: not a folder.*timm:NAME"),
    (("PHOTOS", "PHOTOS", "--out", "v.npy"), "contains no encoder"),
    (("local-dir:nowhere", "PHOTOS", "--out", "v.npy"), "local-dir:nowhere: timm cannot load it"),
])  # fmt: skip
def test_what_cannot_be_done_is_said_in_one_line_and_leaves_nothing(run, photos, tmp_path, monkeypatch, words, reason):
    monkeypatch.chdir(tmp_path)
    for name in ("foreign.npy", "foreign.parquet"):
        Path(name).write_bytes(b"mine")
    done = call("embed", *({"RUN": run, "PHOTOS": photos}.get(word, word) for word in words))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert re.search(reason, done.stderr), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign.npy", "foreign.parquet"]
    assert Path("foreign.npy").read_bytes() == b"mine"


def test_the_context_encoder_is_read_from_the_checkpoint(run, photos, tmp_path):
    both, context = write_encoder(tmp_path / "both"), write_encoder(tmp_path / "context", seed=1)
    (both / "checkpoints" / "last").mkdir(parents=True)
    state = {f"context_encoder.vit.{k}": v for k, v in load_file(context / "encoder.safetensors").items()}
    state |= {f"target_encoder.encoder.vit.{k}": v for k, v in load_file(run / "encoder.safetensors").items()}
    save_file(state, both / "checkpoints" / "last" / "weights.safetensors")
    for network, alone in (("target", run), ("context", context)):
        found = hjepa.embed(both, photos, network=network, **EXACTLY)
        expected = hjepa.embed(alone, photos, **EXACTLY)
        assert np.array_equal(found.vectors, expected.vectors), network
        assert found.metadata["model"]["fingerprint"] == expected.metadata["model"]["fingerprint"]


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timm") / "vit"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=5, num_classes=0)
    data = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), "input_size": (3, 32, 32), "crop_pct": 0.9}
    arguments = {"img_size": 32, "patch_size": 8, "depth": 5}
    save_for_hf(model, str(folder), model_args=arguments, data_config=data, safe_serialization=True)
    return folder


def test_a_timm_folder_gives_what_a_plain_loop_gives(timm_folder, photos):
    model = timm.create_model(f"local-dir:{timm_folder}", pretrained=True, num_classes=0).eval()
    config = resolve_data_config({}, model=model)
    assert list(config["mean"]) == [0.4, 0.5, 0.6]
    transform = create_transform(**config)
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in open_source(photos, 3).paths])
    with torch.no_grad():
        plain, tokens = model(images), model.forward_features(images)
    found = hjepa.embed(timm_folder, photos, **EXACTLY)
    assert found.metadata["pooling"] == "own"
    np.testing.assert_allclose(found.vectors, plain, atol=1e-5)
    patches = hjepa.embed(f"local-dir:{timm_folder}", photos, pooling="patches", **EXACTLY)
    np.testing.assert_allclose(patches.vectors.reshape(10, 16, 192), tokens[:, 1:], atol=1e-4)
    last4 = hjepa.embed(timm_folder, photos, pooling="last4", **EXACTLY)
    np.testing.assert_allclose(last4.vectors[:, -192:], tokens[:, 1:].mean(1), atol=1e-4)
    with pytest.raises(UserError, match="--level 0: a timm model was not trained on levels"):
        hjepa.embed(timm_folder, photos, level=0, **EXACTLY)


def test_the_fingerprint_is_of_weights_and_preprocessing(run, photos, tmp_path):
    def fingerprint(folder: Path) -> str:
        return hjepa.embed(folder, photos, **EXACTLY).metadata["model"]["fingerprint"]

    same, other = write_encoder(tmp_path / "same"), write_encoder(tmp_path / "other")
    assert fingerprint(same) == fingerprint(run)
    card = json.loads((other / "encoder.json").read_text())
    card["preprocess"]["mean"] = [0.5, 0.5, 0.4]
    (other / "encoder.json").write_text(json.dumps(card))
    assert fingerprint(other) != fingerprint(run)


def test_two_commands_do_not_write_one_file(run, photos, tmp_path):
    from hjepa.commands.embed import EmbedOptions, write_embeddings

    said = []

    def meanwhile(_progress: object) -> None:
        if not said:
            done = call("embed", run, photos, "--out", tmp_path / "v.npy", "--batch-size", 4)
            said.append((done.returncode, done.stderr))

    write_embeddings(run, photos, tmp_path / "v.npy", EmbedOptions(batch_size=4, progress=meanwhile))
    assert said[0][0] == 2 and "another process is writing this file" in said[0][1]
    assert len(hjepa.open_embeddings(tmp_path / "v.npy")) == 10


def test_each_rank_writes_its_part(run, photos, tmp_path, monkeypatch):
    one = hjepa.embed(run, photos, **EXACTLY)
    for rank in ("1", "0", "2"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "3")
        part = hjepa.embed(run, photos, out=tmp_path / "v.parquet", batch_size=4, precision="auto")
        assert len(part) == {"0": 4, "1": 4, "2": 2}[rank]
    three = hjepa.open_embeddings(tmp_path / "v.parquet")
    assert three.images == one.images
    np.testing.assert_allclose(three.vectors, one.vectors, atol=0.1)  # auto may be bf16
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match=r"part-00000-of-00003\.parquet, of another number of processes than 2"):
        hjepa.embed(run, photos, out=tmp_path / "v.parquet", **EXACTLY)


def test_ranks_agree_on_what_is_measured(tmp_path):
    assert [agreed_by_all(tmp_path, "precision", each) for each in ("bf16", "float32", "bf16")] == ["bf16"] * 3
