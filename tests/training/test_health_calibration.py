"""Real runs made to fail on purpose are not taken for sound ones, and those that must collapse are said to."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "health_calibration.py"
spec = importlib.util.spec_from_file_location("health_calibration", FILE)
calibration = importlib.util.module_from_spec(spec)
spec.loader.exec_module(calibration)


@pytest.mark.slow
@pytest.mark.parametrize("name", calibration.CASES)
def test_each_kind_of_run_gets_a_verdict_that_is_true_of_it(name):
    line, verdict = calibration.run(name, steps=200, seed=0)
    assert verdict in calibration.CASES[name][2], line
