"""The laboratory on a tiny experiment of its own: real commands, two variants that train and one that cannot."""

import json
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from commands import environment
from conftest import TINY
from runs import pictures
from safetensors.torch import load_file

import hjepa

LAB = Path(__file__).parents[1] / "benchmarks" / "quality" / "lab.py"
sys.path.append(str(LAB.parent))  # lab.py runs as a script, and imports the files beside it
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
    "base": {name: value for name, value in BASE.items() if name != "train.length"},
    "variants": {"one level": {}, "two levels": {"model.levels": [1, 2]}, "too many heads": {"model.heads": 7}},
}  # fmt: skip


def lab(folder: Path, experiment: dict, *words: str) -> subprocess.CompletedProcess[str]:
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(experiment, sort_keys=False))
    places = ["--runs", str(folder / "runs"), "--results", str(folder / "results")]
    return subprocess.run(
        [sys.executable, str(LAB), str(file), *places, *words],
        capture_output=True, text=True, check=False, env=environment(), timeout=1200,
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

    assert "Computed in float32 on " in table

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


def test_equal_time_becomes_steps_by_the_ratio_of_the_step_times():
    found = runpy.run_path(str(LAB), run_name="lab")["Experiment"]
    seconds = {"slow": 0.2, "fast": 0.16}

    def steps(variant, **equal):
        return found(name="x", **{**EXPERIMENT, "equal": equal}).steps_at_equal_time(variant, seconds)

    assert [steps(variant, steps=1000, of="slow") for variant in seconds] == [1000, 1250]
    assert [steps(variant, minutes=2) for variant in seconds] == [600, 750]


def test_a_card_has_results_of_its_own(tmp_path, monkeypatch):
    """A driver that names a card stands for one: what is asked here is what would be run, not how fast it is."""
    driver = tmp_path / "bin/nvidia-smi"
    driver.parent.mkdir()
    monkeypatch.setenv("PATH", str(driver.parent))
    found = runpy.run_path(str(LAB), run_name="lab")
    experiment = found["Experiment"](name="x", **EXPERIMENT)

    def lab(device):
        return found["Lab"](experiment, tmp_path / "runs", tmp_path / "results", device)

    with pytest.raises(SystemExit, match=r"--device cuda: .*no card.*--device cpu"):
        lab("cuda")
    assert lab("auto").device.kind == "cpu"
    driver.write_text("#!/bin/sh\necho NVIDIA H100\n")
    driver.chmod(0o755)
    card, cpu = lab("auto"), lab("cpu")
    assert (card.folder.name, card.protocol["processor"]) == ("x-cuda", "NVIDIA H100")
    assert (cpu.folder.name, cpu.protocol["processor"]) == ("x", "any")
    assert cpu._environment()["CUDA_VISIBLE_DEVICES"] == ""  # evaluations too
    driver.write_text("#!/bin/sh\necho NVIDIA H200\n")
    with pytest.raises(SystemExit, match="another protocol"):
        lab("cuda")


@pytest.mark.slow
def test_a_laboratory_stops_when_its_minutes_are_over_and_draws_curves_when_it_goes_on(tmp_path):
    curve = {**EXPERIMENT["evaluate"], "points": 3}
    experiment = {**EXPERIMENT, "seeds": [0], "variants": {"one": {}, "two": {"model.levels": [1, 2]}}, "curve": curve}
    experiment["equal"] = {"steps": 6, "of": "two"}
    stopped = lab(tmp_path, experiment, "--minutes", "0.01")
    assert stopped.returncode == 1 and "stopped; the same command goes on" in stopped.stderr
    done = lab(tmp_path, experiment)
    assert done.returncode == 0, done.stderr
    book = json.loads((tmp_path / "results/tiny.json").read_text())
    assert {one["variant"] for one in book["step_times"]} == {"one", "two"}
    ends = {run["variant"]: run["record"]["steps"] for run in book["runs"]}
    assert ends["two"] == 6
    points = {run["variant"]: [point["step"] for point in run["curve"]] for run in book["runs"]}
    assert points["two"] == [2, 4]
    assert not list((tmp_path / "runs/tiny").glob("*/encoder-at-*"))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: written by hierarchy_figure.py -->\n<!-- end of measured -->\nafter\n")
    for name in ("json", "md"):
        shutil.copy(tmp_path / f"results/tiny.{name}", tmp_path / f"results/hierarchy-scenes.{name}")
    script = LAB.with_name("hierarchy_figure.py")
    words = ["--results", str(tmp_path / "results"), "--page", str(page)]
    for _ in range(2):  # a second time changes nothing
        drawn = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=False)
        assert drawn.returncode == 0, drawn.stderr
        text = page.read_text()
        assert text.startswith("before\n<!-- ") and text.endswith(" -->\nafter\n")
        assert "| two | 1 | 6 |" in text and "Not run yet: hierarchy-photographs." in text
        assert len(list((tmp_path / "images").glob("hierarchy-scenes-*.svg"))) == 3


def test_the_encoder_of_a_checkpoint_is_that_of_its_step(tmp_path):
    found = runpy.run_path(str(LAB.with_name("checkpoint_encoder.py")), run_name="checkpoint_encoder")
    run = hjepa.pretrain(pictures(), out=tmp_path / "run", **TINY)
    for step, same in ((12, True), (10, False)):
        found["write_encoder"](run.path / f"checkpoints/step-{step:08d}", tmp_path / str(step))
        ours, theirs = (load_file(folder / "encoder.safetensors") for folder in (tmp_path / str(step), run.path))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items()) == same
        assert hjepa.load_encoder(tmp_path / str(step)).card["provenance"]["step"] == step


def test_levels_of_a_recipe_are_evaluated_too():
    lab = runpy.run_path(str(LAB), run_name="lab")

    def levels(**variant):
        asked = {**EXPERIMENT, "base": {"recipe": "hjepa-tiny"}, "variants": {"this": variant}}
        return lab["Experiment"](name="x", **asked).levels("this")

    assert levels() == ["last", "0", "1", "2", "all"]
    assert levels(**{"model.levels": [0, 4]}) == ["last", "0", "1", "all"]
    assert levels(**{"model.levels": None}) == levels(**{"model.levels": 2}) == ["last"]


def test_a_table_before_anything_ran_names_what_is_missing(tmp_path):
    done = lab(tmp_path, EXPERIMENT, "--table")
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "results/tiny.md").read_text()
    assert table.startswith("# Does a question get a table?")
    assert "Not run yet: one level, seed 0; one level, seed 1; two levels, seed 0;" in table


STAND_IN = """
import json, sys
from pathlib import Path
command, words = sys.argv[1], sys.argv[2:]
if command == "pretrain":
    out = Path(words[words.index("--out") + 1])
    out.mkdir()
    verdict = {"verdict": "healthy", "evidence": "effective rank 3.0"}
    about = {"precision": "float32", "versions": {}, "git": None, "hardware": {"cpu": "any"}}
    about |= {"status": "finished", "steps": 3, "images": 24, "seconds": 1.0, "verdict": verdict}
    (out / "run.json").write_text(json.dumps(about))
    (out / "words").write_text(" ".join(words))
else:
    out = Path(words[0])
    if Path(sys.argv[0]).with_name("broken").exists():
        raise SystemExit("hjepa: broken")
    accuracy = 0.9 if "--optim.lr 0.5" in (out / "words").read_text() else 0.1
    controls = {"raw_pixels": 0.5, "random_init": 0.5}
    row = {"protocol": "knn", "pooling": "avg", "level": "last", "labels": "label", "accuracy": accuracy, "n_train": 60}
    (out / "evaluation.json").write_text(json.dumps({"results": [row | {"controls": controls}]}))
"""


@pytest.fixture
def quick(tmp_path, capsys):
    """A laboratory whose command writes a run's files at once; called with settings, it returns commands and table."""
    (tmp_path / "hjepa.py").write_text(STAND_IN)
    found = runpy.run_path(str(LAB), run_name="lab")
    found["Lab"].run.__globals__["_hjepa"] = lambda command: [sys.executable, str(tmp_path / "hjepa.py"), *command]

    def run(two=None, **settings):
        variants = {"one": settings} | ({"two": two} if two else {})
        experiment = found["Experiment"](name="x", **{**EXPERIMENT, "seeds": [0], "base": {}, "variants": variants})
        found["Lab"](experiment, tmp_path / "runs", tmp_path / "results").run()
        done = [line.split()[2] for line in capsys.readouterr().out.splitlines() if line.startswith("$ hjepa")]
        return done, (tmp_path / "results/x.md").read_text()

    return run


def test_results_of_other_settings_are_not_shown_under_new_ones(quick, tmp_path):
    assert "| 10.0 |" in quick(**{"optim.lr": 0.001})[1]
    done, table = quick(**{"optim.lr": 0.5})
    assert done == ["pretrain", "evaluate"] and "| 90.0 |" in table and "| 10.0 |" not in table
    assert quick(**{"optim.lr": 0.5}) == ([], table)
    assert len(list((tmp_path / "runs/x").glob("one-seed0.*.earlier"))) == 1  # put aside, not lost


def test_an_evaluation_that_failed_once_is_done_again(quick, tmp_path):
    (tmp_path / "broken").touch()
    assert "- **one**, seed 0: hjepa: broken" in quick()[1]
    (tmp_path / "broken").unlink()
    done, table = quick()
    assert done == ["evaluate"] and "| 10.0 |" in table and "Failed" not in table


def test_a_failure_does_not_hide_what_was_measured_elsewhere(quick, tmp_path):
    quick()
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "runs/x").mkdir(parents=True)
    (tmp_path / "runs/x/one-seed0.pretrain.failed.json").write_text('{"message": "hjepa: broken"}')
    done, table = quick(two={"optim.lr": 0.5})
    assert done == ["pretrain", "evaluate"]
    assert "| 10.0 |" in table and "| 90.0 |" in table and "Failed" not in table


def test_a_page_whose_results_were_not_kept_is_not_written_over(quick, tmp_path):
    quick()
    (tmp_path / "results/x.json").unlink()
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(SystemExit, match=r"x\.md has rows and no x\.json"):
        quick()
    assert "| 10.0 |" in (tmp_path / "results/x.md").read_text()


@pytest.mark.slow
def test_a_terminated_laboratory_takes_its_run_along_and_goes_on(tmp_path):
    long = EXPERIMENT | {"equal": {"steps": 100_000}, "seeds": [0], "variants": {"one": {}}}
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(long))
    command = [sys.executable, str(LAB), str(file), "--runs", str(tmp_path), "--results", str(tmp_path / "results")]
    metrics = tmp_path / "tiny/one-seed0/metrics.jsonl"
    for _ in range(2):
        process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
        before = metrics.read_text() if metrics.exists() else ""
        while process.poll() is None and not (metrics.exists() and len(metrics.read_text()) > len(before)):
            time.sleep(0.05)
        process.terminate()
        assert "stopped; the same command goes on" in process.communicate(timeout=120)[1]
        assert json.loads((metrics.parent / "run.json").read_text())["status"] == "stopped"
        assert not list(metrics.parent.parent.glob("*failed.json"))


def test_a_stopped_run_starts_no_other(tmp_path, capsys):
    lab = runpy.run_path(str(LAB), run_name="lab")
    stopped = [sys.executable, "-c", "raise SystemExit(143)"]  # as hjepa ends after SIGTERM
    lab["Lab"].run.__globals__["_hjepa"] = lambda command: stopped
    experiment = lab["Experiment"](name="x", **{**EXPERIMENT, "seeds": list(range(20))})
    with pytest.raises(SystemExit, match="the same command goes on"):
        lab["Lab"](experiment, tmp_path / "runs", tmp_path / "results").run()
    assert capsys.readouterr().out.count("$ hjepa pretrain") == 1
