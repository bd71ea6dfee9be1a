"""The benchmark of speed: each size can be trained, and its command ends with a table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))
from benchmarks.speed.scaling import QUESTIONS, label  # noqa: E402
from benchmarks.speed.sizes import SIZES, resolved_size, sized  # noqa: E402

from hjepa.data.sources import open_source  # noqa: E402
from hjepa.setup.build import build_sampler  # noqa: E402

ALL = {name: sized(name, 2) for name in SIZES} | {label(size): size for sizes in QUESTIONS.values() for size in sizes}


@pytest.mark.parametrize("name", ALL)
def test_masks_can_be_drawn_at_each_size(name):
    size = ALL[name]
    resolved = resolved_size(size, open_source(size.images()[:2]), "float32", "cpu", 10)
    masks = build_sampler(resolved.config).sample(0, 2)
    assert masks.context.shape[1] > 1


@pytest.mark.slow
def test_the_command_ends_with_a_table(tmp_path):
    words = ["--sizes", "ti4-128", "--batch", "2", "--rounds", "1", "--minutes", "0.2", "--no-profile"]
    words += ["--rivals", "end to end,step,plain", "--precision", "float32", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", *words],
        capture_output=True, text=True, cwd=ROOT, env=environment(PYTHONPATH=f"{ROOT}:{ROOT / 'src'}"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (results,) = tmp_path.glob("*.json")
    rows = json.loads(results.read_text())["sizes"]["ti4-128"]
    assert all(name in done.stdout for name in ("end to end", "step", "plain")) and rows
