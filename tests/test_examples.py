"""The examples run, and minimal.py is the whole method in one short file."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, check=False, env=environment(), timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_minimal_is_one_short_file_without_the_library():
    text = (EXAMPLES / "minimal.py").read_text()
    assert len(text.splitlines()) <= 150
    assert "hjepa" not in text
    assert text.index("optimizer.step()") < text.index("t.mul_(momentum)")


@pytest.mark.slow
def test_minimal_learns():
    last = run("minimal.py").splitlines()[-1]
    untrained, pretrained = (float(last.split(name)[1].split(",")[0]) for name in ("untrained ", "pretrained "))
    assert pretrained >= untrained > 0.25


@pytest.mark.slow
def test_own_dataset():
    text = run("own_dataset.py")
    assert "tokens (8, 64, 96) pooled (8, 96)" in text


def test_audit_your_loop_is_short():
    assert len((EXAMPLES / "audit_your_loop.py").read_text().splitlines()) <= 100


@pytest.mark.slow
def test_audit_your_loop_finds_the_stale_update_and_then_nothing():
    stale, fixed = run("audit_your_loop.py").split("fixed:")
    assert "DEVIATES" in stale and "FAIL minor stale-student at " in stale and stale.count("FAIL") == 1
    assert "CONFORMS" in fixed and "FAIL" not in fixed
    assert re.search(r"identical.*: True$", fixed.rstrip())
