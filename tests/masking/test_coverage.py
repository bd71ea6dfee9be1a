import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from hjepa.masking import Masks, MultiBlockSampler, coverage, draw, svg


class TwoKinds:
    """A sampler of a 2x3 grid to be counted by hand: even steps see two patches, odd ones one."""

    def sample(self, step: int, batch: int, rows: slice = slice(None)) -> Masks:
        context = [[0, 3]] * batch if step % 2 == 0 else [[4]] * batch
        targets = [[[1, 2], [1, 2]]] * batch if step % 2 == 0 else [[[1], [5]]] * batch
        return Masks(np.array(context)[rows], np.array(targets)[rows])


@pytest.fixture(scope="module")
def of_two_kinds():
    return coverage(TwoKinds(), (2, 3), steps=4, batch=5)


def test_probabilities_count_each_patch_once_per_image(of_two_kinds):
    np.testing.assert_array_equal(of_two_kinds.context, [[0.5, 0, 0], [0.5, 0.5, 0]])
    np.testing.assert_array_equal(of_two_kinds.target, [[0, 1, 0.5], [0, 0, 0.5]])


def test_json_holds_the_stable_keys_first(of_two_kinds):
    shown = of_two_kinds.to_json()
    assert list(shown)[:6] == [
        "grid",
        "context_tokens",
        "target_tokens",
        "context_coverage_min",
        "target_coverage_min",
        "microseconds_per_image",
    ]
    assert json.loads(json.dumps(shown)) == shown
    assert shown["microseconds_per_image"] > 0
    expected = {
        "grid": [2, 3],
        "context_tokens": 1.5,
        "target_tokens": 1.5,
        "context_coverage_min": 0.0,
        "target_coverage_min": 0.0,
        "context_tokens_range": [1, 2],
        "target_tokens_range": [1, 2],
        "target_union": 2.0,
        "target_union_range": [2, 2],
        "context_share": 0.25,
        "target_union_share": 1 / 3,
    }
    assert {key: shown[key] for key in expected} == expected


def test_probabilities_agree_with_the_token_counts():
    measured = coverage(MultiBlockSampler((5, 9)), (5, 9), steps=20, batch=16)
    assert measured.context.sum() == pytest.approx(measured.context_tokens)
    assert measured.target.sum() == pytest.approx(measured.target_union)
    assert measured.to_json()["context_coverage_min"] == measured.context.min() > 0
    assert measured.to_json()["target_coverage_min"] == measured.target.min() > 0


def test_drawing_shows_both_maps_and_leaves_unused_patches_blank(of_two_kinds):
    assert draw(of_two_kinds).splitlines() == [
        "visible 0.0% to 50.0%     predicted 0.0% to 100.0%",
        "██                          ██▒▒",
        "████                          ▒▒",
    ]


def test_drawing_shows_the_rarest_patch_that_is_used_at_all(of_two_kinds):
    rare = replace(of_two_kinds, context=np.array([[1, 0.001, 0], [0, 0, 0]]))
    assert draw(rare).splitlines()[1].startswith("██░░  ")


def test_svg_is_self_contained_and_shows_maps_and_four_images():
    grid = (5, 9)
    text = svg(coverage(MultiBlockSampler(grid), grid, steps=5, batch=16))
    picture = ElementTree.fromstring(text)
    squares = picture.findall(".//{http://www.w3.org/2000/svg}rect")
    assert len(squares) == (2 + 4) * 45
    labels = [label.text for label in picture.findall(".//{http://www.w3.org/2000/svg}text")]
    assert [label.split(":")[0] for label in labels] == [
        "Visible (context)",
        "Predicted (target)",
        "Image 1",
        "Image 2",
        "Image 3",
        "Image 4",
    ]
    assert "href" not in text
    assert "url(" not in text
    width, height = float(picture.get("width")), float(picture.get("height"))
    assert all(float(square.get("x")) + float(square.get("width")) <= width for square in squares)
    assert all(float(square.get("y")) + float(square.get("height")) <= height for square in squares)


def test_svg_colours_examples_by_role(of_two_kinds):
    panel = ElementTree.fromstring(svg(of_two_kinds)).findall("{http://www.w3.org/2000/svg}g")[2]
    colours = [square.get("fill") for square in panel.findall("{http://www.w3.org/2000/svg}rect")]
    assert colours[0] == colours[3]  # step 0 sees patches 0 and 3, predicts 1 and 2, and leaves 4 and 5
    assert colours[1] == colours[2]
    assert colours[4] == colours[5]
    assert len(set(colours)) == 3
