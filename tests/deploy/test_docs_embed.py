"""Every command and the Python code of docs/embed.md run, in the order of the page."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import call, environment
from deployed import write_encoder, write_images
from PIL import Image
from runs import pictures

PAGE = (Path(__file__).parents[2] / "docs" / "embed.md").read_text()


@pytest.fixture
def place(tmp_path, monkeypatch):
    write_encoder(tmp_path / "runs" / "photos")
    write_images(tmp_path / "path" / "to" / "photos", 12)
    Image.fromarray(pictures(3, seed=5)[2]).save(tmp_path / "path" / "to" / "query.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(language: str) -> list[str]:
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


def test_every_command_of_one_process_runs(place):
    ran = [shlex.split(line)[1:] for line in lines("sh") if line.startswith("hjepa ")]
    assert {words[0] for words in ran} == {"embed", "search", "duplicates", "map"} and len(ran) == 6
    for words in ran:
        done = call(*words)
        assert done.returncode == 0, done.stderr
    for name in ("vectors.npy", "vectors.parquet", "found.html", "duplicates.csv", "duplicates.html", "map.html"):
        assert (place / name).stat().st_size > 30, name


def test_the_python_code_runs(place):
    assert call("embed", "runs/photos", "path/to/photos", "--out", "vectors.npy").returncode == 0
    names = {"images": torch.zeros(2, 3, 16, 16, dtype=torch.uint8)}
    exec("\n".join(lines("python")), names)
    assert len(names["again"]) == len(names["found"].paths) == 12
    assert [list(each.shape) for each in names["maps"]] == [[2, 4, 4, 32], [2, 2, 2, 32]]


@pytest.mark.slow
def test_the_command_of_two_processes_runs(place):
    (text,) = (line for line in lines("sh") if line.startswith("torchrun "))
    words = [sys.executable, "-m", "torch.distributed.run", *shlex.split(text)[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    assert call("duplicates", "runs/photos", "parts.parquet").returncode == 0
