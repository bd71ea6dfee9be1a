"""docs/export.md: every command runs, every block of Python runs, and all formats give the same features."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call
from conftest import TINY
from PIL import Image

import hjepa

PAGE = (Path(__file__).parents[3] / "docs/export.md").read_text()


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos = tmp_path / "path/to/photos"
    photos.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(9):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(photos / f"{number}.png")
    sections = {name: dict(values) for name, values in TINY.items()}
    sections["train"]["length"], sections["model"]["levels"] = 2, [[1, 2], [2, 1]]
    hjepa.pretrain(photos, out="runs/photos", **sections)

    (tmp_path / "photo.jpg").write_bytes((photos / "0.png").read_bytes())
    pixels = np.asarray(Image.open("photo.jpg")).transpose(2, 0, 1)[None]
    expected = hjepa.load_encoder("runs/photos")(pixels).pooled
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, flags=re.M | re.S)
    assert [kind for kind, _ in blocks].count("sh") == 4 and len(blocks) == 10
    loaded = 0
    for kind, text in blocks:
        if kind == "sh":
            done = call(*shlex.split(text)[1:])
            assert done.returncode == 0, done.stderr
            continue
        names = {"images": pixels.astype(np.float32) / 255, "torch": torch}
        exec(text, names)
        if "pooled" in names:
            loaded += 1
            np.testing.assert_allclose(np.asarray(names["pooled"]), expected.numpy(), atol=1e-5, rtol=0)
    assert loaded == 5
    assert (tmp_path / "exports/checked/README.md").read_text().startswith("---\nlicense: unknown")  # overwritten
