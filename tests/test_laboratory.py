"""The laboratory on a tiny experiment of its own: real commands, two variants that train and one that cannot."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import environment
from conftest import TINY

LAB = Path(__file__).parents[1] / "benchmarks" / "quality" / "lab.py"
BASE = {f"{section}.{name}": value for section, fields in TINY.items() for name, value in fields.items()}
EXPERIMENT = {
    "question": "Does a question get a table?",
    "data": "scenes",
    "evaluate": {
        "train": "scenes:train", "test": "scenes:test", "protocols": ["knn"], "poolings": ["avg"],
        "levels": "each", "max_train": 60, "max_test": 40,
    },
    "equal": {"steps": 3},
    "threads": 1,
    "seeds": [0, 1],
    "base": {name: value for name, value in BASE.items() if name != "train.steps"},
    "variants": {"one level": {}, "two levels": {"model.levels": [1, 2]}, "too many heads": {"model.heads": 7}},
}  # fmt: skip


def lab(folder: Path, experiment: dict, *words: str) -> subprocess.CompletedProcess[str]:
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(experiment, sort_keys=False))
    places = ["--runs", str(folder / "runs"), "--results", str(folder / "results")]
    return subprocess.run(
        [sys.executable, str(LAB), str(file), *places, *words],
        capture_output=True, text=True, check=False, env=environment(), timeout=400,
    )  # fmt: skip


@pytest.mark.slow
def test_an_experiment_runs_once_and_its_table_says_all(tmp_path):
    done = lab(tmp_path, EXPERIMENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("$ hjepa pretrain") == 6
    assert done.stdout.count("$ hjepa evaluate") == 2 * (1 + 4)  # last; last, level 0, level 1, all
    table = (tmp_path / "results/tiny.md").read_text()
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if line.startswith("| ")}
    accuracies = [
        json.loads((tmp_path / f"runs/tiny/one-level-seed{seed}/evaluation-last.json").read_text())["results"]
        for seed in (0, 1)
    ]
    shape = [row["accuracy"] for results in accuracies for row in results if row["labels"] == "shape"]
    assert f"| {100 * sum(shape) / 2:.1f} |" in rows["one level"]
    assert "±" not in table.split("Per cent")[1]  # two seeds have no interval worth the name
    assert "random-init of one level" in rows
    assert "- **too many heads**, seed 0: hjepa: " in table
    assert "must be divisible by 4 and by its 7 heads" in table
    assert "Not run yet" not in table

    assert "Computed in float32." in table

    again = lab(tmp_path, EXPERIMENT)
    assert "$ hjepa" not in again.stdout
    shutil.rmtree(tmp_path / "runs")
    experiment = EXPERIMENT | {"variants": {"one level": {}, "two levels": {"model.depth": 1}}}
    elsewhere = lab(tmp_path, experiment, "--jobs", "2")  # goes on from what is kept beside the table
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert elsewhere.stdout.count("$ hjepa pretrain") == 2
    assert "one-level" not in elsewhere.stdout
    anew = (tmp_path / "results/tiny.md").read_text()
    again = next(line for line in anew.splitlines() if line.startswith("| one level"))
    cells = [cell for cell in rows["one level"].split(" |") if cell.strip()]
    assert [cell for cell in again.split(" |") if cell.strip()] == cells  # but for the columns of levels
    assert rows["two levels"] not in anew

    other = lab(tmp_path, EXPERIMENT | {"threads": 2})
    assert other.returncode == 1
    assert "holds runs of another protocol" in other.stderr


def test_three_seeds_have_an_interval():
    found = runpy.run_path(str(LAB))["mean_and_interval"]
    # Student's t with two degrees of freedom: 4.303 times the standard error, which is 0.01 / sqrt(3).
    assert found([0.50, 0.51, 0.52]) == "51.0 ± 2.5"
    assert found([0.50, 0.52]) == "51.0"
    assert found([0.504]) == "50.4"


def test_levels_of_a_recipe_are_evaluated_too():
    lab = runpy.run_path(str(LAB), run_name="lab")

    def levels(**variant):
        asked = {**EXPERIMENT, "base": {"recipe": "demo"}, "variants": {"this": variant}}
        return lab["Experiment"](name="x", **asked).levels("this")

    assert levels() == ["last", "0", "1", "all"]
    assert levels(**{"model.levels": [0, 2, 4]}) == ["last", "0", "1", "2", "all"]
    assert levels(**{"model.levels": None}) == levels(**{"model.levels": 2}) == ["last"]


def test_a_table_before_anything_ran_names_what_is_missing(tmp_path):
    done = lab(tmp_path, EXPERIMENT, "--table")
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "results/tiny.md").read_text()
    assert table.startswith("# Does a question get a table?")
    assert "Not run yet: one level, seed 0; one level, seed 1; two levels, seed 0;" in table


def test_a_stopped_run_starts_no_other(tmp_path, capsys):
    lab = runpy.run_path(str(LAB), run_name="lab")
    stopped = [sys.executable, "-c", "raise SystemExit(143)"]  # as hjepa ends after SIGTERM
    lab["Lab"].run.__globals__["_hjepa"] = lambda command: stopped
    experiment = lab["Experiment"](name="x", **{**EXPERIMENT, "seeds": list(range(20))})
    with pytest.raises(SystemExit, match="the same command goes on"):
        lab["Lab"](experiment, tmp_path / "runs", tmp_path / "results").run()
    assert capsys.readouterr().out.count("$ hjepa pretrain") == 1
