"""Files are replaced whole or not at all; what must not be lost is refused."""

import json

import pytest

from hjepa.errors import UserError
from hjepa.training.run_folder import RunFolder, write_atomically, write_json


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "run.json"
    write_json(file, {"a": 1})

    def half(path):
        path.write_text("{")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, half)
    assert json.loads(file.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_metrics_are_cut_and_half_lines_ignored(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.append_metrics({"step": step, "loss": float("nan")})
    with folder.metrics.open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    assert [line["step"] for line in folder.read_metrics()] == [1, 2, 3]
    folder.cut_metrics(2)
    folder.append_metrics({"step": 3, "loss": 1.0})
    assert folder.read_metrics() == [{"step": 1, "loss": None}, {"step": 2, "loss": None}, {"step": 3, "loss": 1.0}]


def test_overwriting_replaces_a_run_and_nothing_else(tmp_path):
    run, other = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "other")
    run.create()
    run.write_record({"status": "finished"})
    (other.path).mkdir()
    (other.path / "photo.jpg").write_text("precious")
    with pytest.raises(UserError, match="not empty and not a run"):
        other.refuse_if_occupied(overwrite=True)
    with pytest.raises(UserError, match="not empty; continue that run with --resume"):
        run.refuse_if_occupied(overwrite=False)
    run.refuse_if_occupied(overwrite=True)
    run.create()
    assert [p.name for p in run.path.iterdir()] == ["checkpoints"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "run"]


def test_damaged_records_are_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        RunFolder(tmp_path).read_record()
