"""hjepa duplicates: what is grouped, what is kept, what is calibrated; nothing is deleted."""

import csv
import itertools
import json
import re

import numpy as np
import pytest
from commands import call
from deployed import write_encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

import hjepa
from hjepa.deploy.alignment import picture_agreement, picture_thumbnail
from hjepa.deploy.copies import KINDS, make_copy
from hjepa.deploy.duplicates import _best_pairs, _exact_copies, _groups


def scene(seed: int, size: int = 48) -> np.ndarray:
    """Return a smooth picture, as photographs are."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (7, 7, 3), dtype=np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    return np.asarray(coarse.filter(ImageFilter.SMOOTH))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("deploy") / "run", size=32)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deploy") / "photos"
    folder.mkdir()
    for number in range(40):
        Image.fromarray(scene(number)).save(folder / f"{number:02}.png")
    Image.fromarray(scene(3)).save(folder / "03-jpeg.jpg", quality=70)
    Image.fromarray(scene(3)).resize((96, 96), Image.Resampling.BICUBIC).save(folder / "03-larger.png")
    Image.fromarray(scene(5)[1:47, 2:48]).save(folder / "05-cropped.png")
    (folder / "zz-exact.png").write_bytes((folder / "07.png").read_bytes())
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_finds_copies_and_keeps_the_largest(run, photos, tmp_path):
    before = sorted(path.name for path in photos.iterdir())
    done = call("duplicates", run, photos, "--list", tmp_path / "l.csv", "--html", tmp_path / "d.html", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    groups = {
        group["keep"].rpartition("/")[2]: sorted(copy["path"].rpartition("/")[2] for copy in group["drop"])
        for group in found["groups"]
    }
    assert groups == {
        "03-larger.png": ["03-jpeg.jpg", "03.png"],
        "05.png": ["05-cropped.png"],
        "07.png": ["zz-exact.png"],
    }
    assert [copy["exact_copy"] for group in found["groups"] for copy in group["drop"]].count(True) == 1
    assert found["images"] == 45 and found["unreadable"] == 1
    calibration = found["calibration"]
    assert calibration["false_pairs"] == 0 and calibration["images"] == 43
    assert calibration["found"].keys() == set(KINDS) and min(calibration["found"].values()) > 0.9
    with (tmp_path / "l.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["action"] for row in rows].count("keep") == 3 and len(rows) == 7
    assert all(row["reason"] in ("exact copy", "near duplicate") for row in rows if row["action"] == "drop")
    assert (tmp_path / "d.html").read_text().count("data:image/jpeg") == 7
    assert sorted(path.name for path in photos.iterdir()) == before


def test_prints_groups_and_how_the_threshold_came_about(run, photos, tmp_path):
    hjepa.embed(run, photos, out=tmp_path / "v.npy")
    done = call("duplicates", run, tmp_path / "v.npy", "--list", tmp_path / "l.csv")
    assert done.returncode == 0, done.stderr
    assert "duplicates 3 groups among 45 images; 4 could be dropped; 1 unreadable" in done.stdout
    assert re.search(r"calibrated on copies made of 43 of these images; found: re-encoded \d+", done.stdout)
    assert "0 false pairs with 43 other images" not in done.stdout and "with 42 other images" in done.stdout
    assert "nothing is deleted" in done.stdout
    again = call("duplicates", run, tmp_path / "v.npy", "--list", tmp_path / "l.csv")  # a list of ours is replaced
    assert again.stdout == done.stdout
    (tmp_path / "mine.csv").write_text("path,label\n")
    refused = call("duplicates", run, tmp_path / "v.npy", "--list", tmp_path / "mine.csv")
    assert refused.returncode == 2 and re.search(r"--list .*mine\.csv: exists", refused.stderr)
    assert (tmp_path / "mine.csv").read_text() == "path,label\n"


def test_a_given_threshold_and_vectors_alone(run, photos):
    strict = hjepa.duplicates(run, photos, threshold=1.0)
    kept = [strict.paths[group.keep].rpartition("/")[2] for group in strict.groups]
    assert strict.threshold == 1.0 and "07.png" in kept and "05.png" not in kept
    assert strict.calibration.found["cropped"] == 0
    alone = hjepa.duplicates(run, photos, threshold=0.0, pixels=False)
    assert alone.calibration is None and alone.dropped == 43  # all resemble the first one somewhat


@pytest.mark.parametrize(("words", "reason"), [
    (("--threshold", "high"), "--threshold high: use auto, or"),
    (("--threshold", "7"), "--threshold 7: must be a cosine similarity"),
    (("--no-pixels",), "--no-pixels: set a threshold"),
])  # fmt: skip
def test_what_makes_no_sense_is_said_in_one_line(run, photos, words, reason):
    done = call("duplicates", run, photos, *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and reason in done.stderr, done.stderr


def test_images_that_are_gone_cannot_be_compared(run, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.fromarray(scene(number)).save(tmp_path / "photos" / f"{number}.png")
    hjepa.embed(run, tmp_path / "photos", out=tmp_path / "v.npy")
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    done = call("duplicates", run, tmp_path / "v.npy")
    assert done.returncode == 2 and "not found" in done.stderr and "--no-pixels --threshold" in done.stderr
    assert call("duplicates", run, tmp_path / "v.npy", "--no-pixels", "--threshold", 0.9999).returncode == 0


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_tell_copies_from_other_pictures(kind):
    scenes = [scene(seed) for seed in range(40)]
    thumbnails = [picture_thumbnail(each) for each in scenes]
    copies = [picture_thumbnail(make_copy(each, kind, number)) for number, each in enumerate(scenes)]
    assert picture_agreement(thumbnails, copies).same_picture.all()
    assert picture_agreement(copies, thumbnails).same_picture.all()  # whichever of both was cropped
    assert not picture_agreement(thumbnails[1:] + thumbnails[:1], copies).same_picture.any()


def test_even_images_are_no_copies_of_one_another():
    even = [picture_thumbnail(np.full((20, 20, 3), value, dtype=np.uint8)) for value in (0, 200)]
    assert not picture_agreement(even[:1], even[1:]).same_picture[0]


def cut_out(colour: tuple[int, int, int], stripes: int = 0) -> np.ndarray:
    """Return a disc on white: whatever is in it, its outline has nearly all of the gradients."""
    rows, columns = np.mgrid[:96, :96]
    picture = np.full((96, 96, 3), 255, dtype=np.uint8)
    disc = (rows - 48) ** 2 + (columns - 48) ** 2 < 44**2
    picture[disc] = colour
    if stripes:
        picture[disc & (columns // stripes % 2 == 0)] = np.array(colour) // 2
    return picture


@pytest.mark.parametrize("other", [cut_out((90, 160, 60)), cut_out((120, 60, 30), stripes=16)])
def test_things_of_one_outline_are_no_copies(other):
    ball = picture_thumbnail(cut_out((200, 90, 40)))
    found = picture_agreement([ball], [picture_thumbnail(other)])
    assert found.gradients[0] > 0.9 and not found.same_picture[0]


def test_copies_are_what_their_names_say():
    picture = scene(0)
    assert make_copy(picture, "cropped", 1).shape == (46, 46, 3)
    assert make_copy(picture, "re-encoded", 1).shape == picture.shape
    sizes = {make_copy(picture, "resized", number).shape[0] for number in range(20)}
    assert min(sizes) < 40 and max(sizes) > 56
    deep = np.random.default_rng(0).integers(0, 60_000, (40, 40, 1)).astype(np.uint16)
    for kind in KINDS:
        copy = make_copy(deep, kind, 2)
        assert copy.dtype == np.uint16 and copy.shape == (38, 38, 1)
    assert make_copy(picture[..., :1], "resized", 3).shape[-1] == 1


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 9), linked=st.sets(st.tuples(st.integers(0, 8), st.integers(0, 8))),
    content=st.lists(st.integers(0, 6), min_size=9, max_size=9),
    sizes=st.lists(st.integers(1, 3), min_size=9, max_size=9),
)  # fmt: skip
def test_groups_are_stars(count, linked, content, sizes):
    """Each image is in one group at most, and each that is dropped is a copy of the one that is kept."""
    exact = _exact_copies((str(content[index]), index) for index in range(count))
    links = {index: {} for index in range(9)}
    for one, two in linked:
        if one != two and one in exact and two in exact:
            links[one][two] = links[two][one] = (0.5, 0.95)
    groups = list(_groups(links, exact, {index: (sizes[index], 0) for index in exact}))
    members = [index for group in groups for index in (group.keep, *(copy.index for copy in group.copies))]
    assert len(members) == len(set(members)) and all(group.copies for group in groups)
    first = {index: min(i for i in range(count) if content[i] == content[index]) for index in range(count)}
    for group in groups:
        for copy in group.copies:
            assert copy.exact == (content[copy.index] == content[group.keep])
            assert copy.exact or first[copy.index] in links[group.keep]
            assert copy.exact or sizes[first[copy.index]] <= sizes[group.keep]
    kept = [index for index in exact if index not in members or index in {group.keep for group in groups}]
    assert not [pair for pair in itertools.combinations(kept, 2) if pair[1] in links[pair[0]]]  # nothing is left over


def test_too_many_pairs_are_cut_to_the_best_and_said():
    vectors = np.random.default_rng(0).standard_normal((120, 8)).astype(np.float32)
    said = []
    pairs, similarities = _best_pairs(vectors, -1.0, said.append)
    assert len(pairs) == 120 * 50 and re.search(r"1,140 pairs above the threshold were not compared", said[0])
    every = np.sort(
        (lambda u: u @ u.T)(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[np.triu_indices(120, 1)]
    )
    np.testing.assert_allclose(np.sort(similarities), every[-6000:], atol=1e-5)
