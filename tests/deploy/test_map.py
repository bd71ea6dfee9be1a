"""hjepa map: places, neighbours, the page, and the page in a browser."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from commands import call
from deployed import write_encoder, write_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import hjepa
from hjepa.deploy.map.atlas import PIXELS, SIDES, build_atlas, thumbnail_side
from hjepa.deploy.map.layout import places

DRAWN_PIXELS = """() => {
    const map = document.getElementById("map");
    const pixels = map.getContext("2d").getImageData(0, 0, map.width, map.height).data;
    return pixels.filter((value, index) => index % 4 === 3 && value > 0).length;
}"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("map") / "run")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = write_images(tmp_path_factory.mktemp("map") / "photos", 24, size=24)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "</script><b>x.png").parent.mkdir(parents=True)  # a name that would end a script
    shutil.copy(folder / "0001.png", folder / "</script><b>x.png")
    return folder


def drawn(page: str) -> dict:
    """Return the data of a page."""
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
    data["places"] = np.frombuffer(base64.b64decode(data["places"]), "<u2").reshape(-1, 2) / 65535
    neighbours = np.frombuffer(base64.b64decode(data["neighbours"]), "<u4")
    data["neighbours"] = neighbours.reshape(len(data["names"]), data["perImage"])
    return data


METHODS = ["pca", pytest.param("umap", marks=pytest.mark.slow)]  # which compiles itself first


@pytest.mark.parametrize("method", METHODS)
def test_a_page_holds_every_readable_image_with_its_neighbours(run, photos, tmp_path, method):
    done = call(
        "map", run, photos, "--html", tmp_path / "a" / "map.html", "--method", method, "--vectors", tmp_path / "v.npy"
    )
    assert done.returncode == 0, done.stderr
    assert f"25 images by {method.upper()}, 1 unreadable" in done.stdout
    known = hjepa.open_embeddings(tmp_path / "v.npy")
    readable = [index for index, error in enumerate(known.errors) if not error]
    data = drawn((tmp_path / "a" / "map.html").read_text())
    assert data["names"] == [known.paths[index] for index in readable]
    assert data["places"].min(0).tolist() == [0, 0] and data["places"].max(0).tolist() == [1, 1]
    unit = known.vectors[readable] / np.linalg.norm(known.vectors[readable], axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -2)
    for own, found in enumerate(data["neighbours"]):
        np.testing.assert_allclose(likeness[own][found], np.sort(likeness[own])[::-1][: len(found)], atol=1e-5)


def test_a_page_needs_no_other_file_and_names_cannot_break_out(run, photos, tmp_path):
    hjepa.map_images(run, photos, tmp_path / "map.html", method="pca")
    page = (tmp_path / "map.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page) and "http" not in re.sub(r"http-equiv", "", page)
    assert (
        page.count("</script>") == 2 and "default-src 'none'" in page and "@" not in re.sub("@media|@[^A-Z]", "", page)
    )
    assert any(name.endswith("</script><b>x.png") for name in drawn(page)["names"])


@pytest.mark.slow
def test_of_many_images_some_are_drawn_and_the_same_command_draws_the_same(run, photos, tmp_path):
    found = hjepa.map_images(run, photos, tmp_path / "one.html", max_images=10)
    assert (found.images, found.of, found.unreadable, found.method) == (10, 25, 1, "pca")
    for name in ("a", "b"):
        assert hjepa.map_images(run, photos, tmp_path / f"{name}.html").method == "umap"
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--method", "tsne"], r"--method tsne: choose auto, umap or pca"),
        (["--method", "umap", "--max-images", "5"], r"5 images are too few.*--method pca"),
        (["--max-images", "0"], r"--max-images 0: must be at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(run, photos, tmp_path, words, expected):
    done = call("map", run, photos, "--html", tmp_path / "map.html", *words)
    assert done.returncode == 2 and re.search(expected, done.stderr) and done.stderr.count("\n") == 1
    assert not (tmp_path / "map.html").exists()


@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_places_are_in_the_unit_square_whatever_the_vectors(count, width, seed):
    vectors = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    for known in (vectors, np.ones_like(vectors)):
        found = places(known, "pca")
        assert found.shape == (count, 2) and np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_similar_vectors_lie_near_each_other(method):
    random = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 8, dtype=np.float32), 20, axis=0)
    found = places(centres + 0.05 * random.normal(size=centres.shape), method).reshape(3, 20, 2)
    within = found.std(1).mean()
    between = np.linalg.norm(found.mean(1)[:, None] - found.mean(1)[None], axis=-1)[np.triu_indices(3, 1)].min()
    assert between > 3 * within


def test_an_atlas_has_each_picture_in_its_place():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), None, (255, 255, 255)]
    images = [None if c is None else np.full((30, 60, 3), c, np.uint8) for c in colours]
    atlas = build_atlas(images, 5)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(atlas.data.split(",")[1]))))
    for number, colour in enumerate(colours):
        row, column = divmod(number, atlas.columns)
        middle = sheet[int((row + 0.5) * atlas.side), int((column + 0.5) * atlas.side)]
        assert np.abs(middle.astype(int) - (colour or (238, 238, 238))).max() < 12


def test_thumbnails_shrink_with_their_number():
    sides = [thumbnail_side(count) for count in (1, 1000, 3000, 10_000, 10**6)]
    assert sides == sorted(sides, reverse=True) and sides[0] == SIDES[0] and sides[-1] == SIDES[-1]
    assert 10_000 * thumbnail_side(10_000) ** 2 <= PIXELS


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_in_a_browser(run, photos, tmp_path, width):
    from playwright.sync_api import sync_playwright

    hjepa.map_images(run, photos, tmp_path / "map.html", method="pca")
    said, asked = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "map.html").as_uri())
        page.wait_for_selector("#map[data-drawn]")
        assert page.evaluate(DRAWN_PIXELS) > 2000  # pictures are drawn
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        data = drawn((tmp_path / "map.html").read_text())
        box = page.locator("#map").bounding_box()
        scale = 0.9 * min(box["width"], box["height"])
        x = box["x"] + box["width"] / 2 + (data["places"][3][0] - 0.5) * scale
        y = box["y"] + box["height"] / 2 + (0.5 - data["places"][3][1]) * scale
        page.mouse.move(x, y)
        assert page.locator("#hover figcaption").text_content() in data["names"]
        page.mouse.click(x, y)
        assert page.locator("#list .card").count() == data["perImage"]
        first = page.locator("#list .card").first
        neighbour = first.get_attribute("title")
        first.click()
        assert page.locator("#chosen .card").get_attribute("title") == neighbour
        before = page.locator("#map").get_attribute("data-drawn")
        page.mouse.move(x, y)
        page.mouse.wheel(0, -600)
        page.wait_for_function(f"document.getElementById('map').dataset.drawn !== '{before}'")
        page.keyboard.press("Tab")
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
