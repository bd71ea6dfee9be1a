"""hjepa search: what is found, in which files, what is refused, and what is on the page."""

import base64
import io
import json
import os
import re

import numpy as np
import pytest
from commands import call
from deployed import noise, write_encoder, write_images
from PIL import Image

import hjepa
from hjepa.deploy.contact_sheet import Picture, Section, thumbnail, write_contact_sheet


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("deploy") / "run")


@pytest.fixture
def photos(tmp_path):
    folder = write_images(tmp_path / "photos", 12)
    (folder / "copy.png").write_bytes((folder / "0001.png").read_bytes())
    (folder / "0002.png").write_bytes(b"no image")
    return folder


def test_finds_what_is_nearest(run, photos, tmp_path):
    vectors = hjepa.embed(run, photos, out=tmp_path / "v.parquet")
    done = call("search", run, tmp_path / "v.parquet", "--query", photos / "0001.png", "--query", photos / "0004.png",
                "--top", 5, "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["exact"] is True and found["images"] == 13 and found["unreadable"] == 1
    unit = vectors.vectors / np.linalg.norm(vectors.vectors, axis=1, keepdims=True)
    for query, result in zip(("0001.png", "0004.png"), found["queries"], strict=True):
        assert result["query"] == str(photos / query)
        scores = np.nan_to_num(unit @ unit[vectors.paths.index(str(photos / query))], nan=-2)
        similarities = [row["similarity"] for row in result["results"]]
        assert similarities == pytest.approx(-np.sort(-scores)[:5], abs=1e-3)
        for row in result["results"]:
            assert row["similarity"] == pytest.approx(scores[vectors.paths.index(row["path"])], abs=1e-3)
    copies = [row["path"] for row in found["queries"][0]["results"] if row["exact_copy"]]
    assert sorted(copies) == [str(photos / "0001.png"), str(photos / "copy.png")]


def test_images_are_embedded_on_the_way_and_their_vectors_are_kept(run, photos, tmp_path):
    query = ("--query", photos / "0001.png", "--json")
    without = call("search", run, photos, *query)
    assert without.returncode == 0, without.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    first = call("search", run, photos, *query, "--vectors", tmp_path / "v.npy")
    written = (tmp_path / "v.npy").stat().st_mtime_ns
    second = call("search", run, photos, *query, "--vectors", tmp_path / "v.npy")
    assert without.stdout == first.stdout == second.stdout
    assert (tmp_path / "v.npy").stat().st_mtime_ns == written
    (photos / "new.png").write_bytes((photos / "0004.png").read_bytes())
    stale = call("search", run, photos, *query, "--vectors", tmp_path / "v.npy")
    assert stale.returncode == 2 and "--vectors" in stale.stderr and "vectors of other images" in stale.stderr


def test_all_levels_count_alike(run, photos):
    found = hjepa.search(run, photos, photos / "0004.png", level="all", top=12)
    levels = [hjepa.embed(run, photos, level=level) for level in ("0", "1")]
    query = levels[0].paths.index(str(photos / "0004.png"))
    unit = [each.vectors / np.linalg.norm(each.vectors, axis=1, keepdims=True) for each in levels]
    for match in found.results[0].matches:
        mean = np.mean([each[match.index] @ each[query] for each in unit])
        assert match.similarity == pytest.approx(mean, abs=5e-3)


def test_images_in_arrays_are_found_by_number_and_have_pictures(run, photos, tmp_path):
    images = np.stack([noise(n) for n in range(4)])
    np.savez(tmp_path / "images.npz", train_images=images)
    Image.fromarray(images[2]).save(tmp_path / "query.png")
    vectors = tmp_path / "v.npy"
    for where in (tmp_path / "images.npz", vectors):
        kept = ("--vectors", vectors) if where != vectors else ()
        done = call("search", run, where, "--query", tmp_path / "query.png", *kept, "--html", tmp_path / "s.html")
        assert done.returncode == 0, done.stderr
        assert re.search(r"\n1 +(1\.0000|0\.99\d\d) +image 2", done.stdout), done.stdout
        assert (tmp_path / "s.html").read_text().count("data:image/jpeg;base64,") == 5


@pytest.mark.parametrize(("words", "reason"), [
    (("OTHER", "VECTORS", "--query", "QUERY"), r"vectors of another model.*fingerprint \w{16}.*hjepa embed"),
    (("RUN", "PATCHES", "--query", "QUERY"), r"one vector per patch.*--pooling avg"),
    (("RUN", "VECTORS", "--query", "nowhere.png"), r"--query nowhere\.png: no such file"),
    (("RUN", "VECTORS", "--query", "BROKEN"), r"--query .*0002\.png: cannot decode"),
    (("RUN", "VECTORS", "--query", "QUERY", "--top", "0"), r"--top 0: must be at least 1"),
    (("RUN", "VECTORS", "--query", "QUERY", "--pooling", "avg"), r"an embedding file; remove --vectors, --pooling"),
    (("RUN", "nowhere", "--query", "QUERY"), r"nowhere is neither a folder nor"),
])  # fmt: skip
def test_what_cannot_be_searched_is_said_in_one_line(run, photos, tmp_path, words, reason):
    known = {"RUN": run, "QUERY": photos / "0001.png", "BROKEN": photos / "0002.png"}
    known |= {"VECTORS": tmp_path / "v.npy", "PATCHES": tmp_path / "p.npy", "OTHER": tmp_path / "other"}
    hjepa.embed(run, photos, out=known["VECTORS"])
    hjepa.embed(run, photos, out=known["PATCHES"], pooling="patches")
    write_encoder(known["OTHER"], seed=1)
    done = call("search", *(known.get(word, word) for word in words))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and re.search(reason, done.stderr), done.stderr


def test_beyond_a_stated_size_the_search_is_approximate_and_says_so(run, photos, tmp_path):
    hjepa.embed(run, photos, out=tmp_path / "v.npy")
    words = ("search", run, tmp_path / "v.npy", "--query", photos / "0004.png", "--top", 3)
    exact, approximate = call(*words, "--json"), call(*words, "--exact-up-to", 12, "--json")
    assert approximate.returncode == 0, approximate.stderr
    found = json.loads(approximate.stdout)
    assert found["exact"] is False and (tmp_path / "v.npy.usearch").is_file()
    paths = [[row["path"] for row in json.loads(each.stdout)["queries"][0]["results"]] for each in (exact, approximate)]
    assert paths[0] == paths[1]  # of so few all are looked at
    assert "approximate (usearch)" in call(*words, "--exact-up-to", 12).stdout


def test_the_page_needs_no_other_file(run, photos, tmp_path):
    odd = photos / os.fsdecode(b"caf\xe9 <b>.png")
    odd.write_bytes((photos / "0001.png").read_bytes())
    hjepa.embed(run, photos, out=tmp_path / "v.npy")
    (photos / "copy.png").unlink()  # since then
    done = call("search", run, tmp_path / "v.npy", "--query", photos / "0001.png", "--top", 13,
                "--html", tmp_path / "page" / "s.html")  # fmt: skip
    assert done.returncode == 0 and "s.html" in done.stdout, done.stderr
    page = (tmp_path / "page" / "s.html").read_text()
    assert "<b>.png" not in page and "caf\\xe9 &lt;b&gt;.png" in page
    assert page.count("not found") == 1 and page.count("exact copy</b>") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)
    pictures = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert len(pictures) == 13  # the query, and all but the one that is gone
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures[0]))), dtype=float)
    original = np.asarray(Image.open(photos / "0001.png"), dtype=float)
    assert shown.shape == original.shape and np.abs(shown - original).mean() < 25


@pytest.mark.parametrize(("shape", "kind"), [
    ((300, 200, 3), np.uint8), ((20, 30, 1), np.uint8), ((20, 30, 1), np.uint16), ((20, 30, 5), np.float32),
    ((9, 9, 2), np.uint8),
])  # fmt: skip
def test_every_image_has_a_thumbnail(shape, kind, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 200, shape).astype(kind)
    image = Image.open(io.BytesIO(thumbnail(pixels)))
    assert max(image.size) <= 160 and image.size[0] / image.size[1] == pytest.approx(shape[1] / shape[0], rel=0.02)
    write_contact_sheet(
        tmp_path / "s.html", "T", [Section("a & b", [Picture(pixels, "x", "y"), Picture(None, "z", "w")])]
    )
    assert "a &amp; b" in (tmp_path / "s.html").read_text()
