"""The table of what each level knows: its figures are those of ``hjepa evaluate``, its factors what they are called."""

import json
import runpy
import sys

import pytest
import torch
from conftest import TINY
from runs import pictures
from test_laboratory import LAB

import hjepa

SCRIPT = LAB.with_name("levels_know.py")


def test_texture_is_finer_and_colour_warmer_where_they_should_be():
    found = runpy.run_path(str(SCRIPT), run_name="levels_know")
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(noise, 9, stride=1, padding=4)
    assert found["fineness"](torch.cat([smooth, noise])).diff() > 0
    assert found["fineness"](0.3 * noise).item() == pytest.approx(found["fineness"](noise).item(), rel=0.02)
    red = noise * torch.tensor([1.0, 0.5, 0.1]).view(3, 1, 1)
    assert found["warmth"](red).item() > 0.3 > -0.3 > found["warmth"](red.flip(1)).item()


@pytest.mark.slow
def test_levels_are_probed_as_evaluate_does(tmp_path, monkeypatch):
    settings = TINY | {"model": TINY["model"] | {"levels": [0, 1, 2]}}
    run = hjepa.pretrain(pictures(), out=tmp_path / "run", **settings)
    words = ["--train", "scenes:train", "--test", "scenes:test", "--max-train", "80", "--max-test", "60"]
    words += ["--protocols", "knn", "--pixel-factors", "--out", str(tmp_path / "table")]
    monkeypatch.setattr("hjepa.commands.evaluate.choose_precision", lambda *_: ("float32", "as the table"))
    monkeypatch.setattr(sys, "argv", ["levels_know.py", str(run.path), *words])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    found = json.loads((tmp_path / "table.json").read_text())
    assert set(found["controls"]) == {"layout", "shape", "texture", "fineness", "colour"}
    for level in ("0", "1", "last", "all"):
        expected = hjepa.evaluate(
            run, train="scenes:train", test="scenes:test", level=level, protocols="knn", max_train=80, max_test=60
        )
        for result in expected.results:
            asked = (result.labels, "trained", level)
            [ours] = [r for r in found["runs"][0]["rows"] if (r["factor"], r["network"], r["level"]) == asked]
            assert ours["accuracy"] == result.accuracy, asked
    table = (tmp_path / "table.md").read_text()
    assert "| factor | probe | level 0 (depth 0, stride 1) | level 1 (depth 1, stride 1) |" in table
    assert table.count("\n| layout | knn | ") == 1
    monkeypatch.setattr(sys, "argv", ["levels_know.py", str(run.path), *words, "--depths", "1,2"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    again = json.loads((tmp_path / "table.json").read_text())["runs"][0]["rows"]
    for row in found["runs"][0]["rows"]:
        if row["level"] in ("1", "2"):  # of 0, 1 and 2
            assert row | {"level": str(int(row["level"]) - 1)} in again
