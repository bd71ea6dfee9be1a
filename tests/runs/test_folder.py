"""Files are replaced whole or not at all; what must not be lost is refused."""

import json
import math
import os
import signal
import subprocess
import sys

import pytest

from hjepa.errors import UserError
from hjepa.files import write_atomically, write_json
from hjepa.runs.folder import RunFolder


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


def test_no_level_writes_what_is_not_json(tmp_path):
    run = RunFolder(tmp_path)
    run.append_metrics({"step": 1, "loss": math.nan, "levels": [{"loss": math.inf, "gap": 0.5}, {"loss": 1.0}]})
    assert run.metrics.read_text() == (
        '{"step": 1, "loss": null, "levels": [{"loss": null, "gap": 0.5}, {"loss": 1.0}]}\n'
    )


def test_overwriting_replaces_a_run_and_nothing_else(tmp_path):
    run, other = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "other")
    run.create({"status": "finished"}, overwrite=False)
    (run.checkpoints / "step-00000001").mkdir()
    (other.path).mkdir()
    (other.path / "photo.jpg").write_text("precious")
    with pytest.raises(UserError, match=r"not a run.*--overwrite"):
        other.refuse_if_occupied(overwrite=True)
    with pytest.raises(UserError, match="not empty; continue that run with --resume"):
        run.refuse_if_occupied(overwrite=False)
    run.refuse_if_occupied(overwrite=True)
    run.create({"status": "running"}, overwrite=True)
    assert not list(run.checkpoints.iterdir())
    run.restore_replaced()  # the new run failed before it saved anything
    assert run.read_record()["status"] == "finished" and (run.checkpoints / "step-00000001").is_dir()
    run.create({"status": "running"}, overwrite=True)
    run.discard_replaced()
    assert run.read_record()["status"] == "running" and not list(run.checkpoints.iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "run"]


def test_a_link_to_a_run_is_followed(tmp_path):
    RunFolder(tmp_path / "run").create({"status": "finished"}, overwrite=False)
    (tmp_path / "link").symlink_to("run")
    linked = RunFolder(tmp_path / "link")
    linked.create({"status": "running"}, overwrite=True)
    linked.discard_replaced()
    assert (tmp_path / "link").is_symlink()
    assert RunFolder(tmp_path / "run").read_record()["status"] == "running"


def test_two_processes_cannot_train_one_run(tmp_path):
    code = "import sys, pathlib; from hjepa.runs.folder import RunFolder\n"
    code += "with RunFolder(pathlib.Path(sys.argv[1])).locked(): print('held', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match="another process is training"),
            RunFolder(tmp_path / "run").locked(),
        ):
            pass
        other.communicate("")
    with RunFolder(tmp_path / "run").locked():
        assert (tmp_path / ".run.lock").exists()
    assert not (tmp_path / ".run.lock").exists()


def test_a_child_that_outlives_a_killed_run_does_not_keep_it_locked(tmp_path):
    """Loader workers are forked from the process that holds the lock, and notice its death seconds later."""
    code = "import os, sys, time, pathlib; from hjepa.runs.folder import RunFolder\n"
    code += "with RunFolder(pathlib.Path(sys.argv[1])).locked():\n"
    code += " child = os.fork()\n if not child: time.sleep(60); os._exit(0)\n"
    code += " time.sleep(0.2); print(child, flush=True); time.sleep(60)"
    words = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as run:
        child = int(run.stdout.readline())
        with pytest.raises(UserError, match="another process is training"), RunFolder(tmp_path / "run").locked():
            pass
        run.kill()
        run.wait()
        try:
            os.kill(child, 0)  # is still there
            with RunFolder(tmp_path / "run").locked():
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_damaged_records_are_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        RunFolder(tmp_path).read_record()


def test_what_was_replaced_does_not_replace_a_run_that_has_saved(tmp_path):
    """A kill between the first checkpoint and the clean-up leaves both: the one with a checkpoint stands."""
    RunFolder(tmp_path / "run").create({"status": "old"}, overwrite=False)
    new = RunFolder(tmp_path / "run")
    new.create({"status": "new"}, overwrite=True)
    (new.checkpoints / "step-00000003").mkdir()
    (new.checkpoints / "last").symlink_to("step-00000003")
    new.restore_replaced()
    assert new.read_record()["status"] == "new"


def test_what_was_replaced_comes_back_if_nothing_was_saved(tmp_path):
    RunFolder(tmp_path / "run").create({"status": "old"}, overwrite=False)
    new = RunFolder(tmp_path / "run")
    new.create({"status": "new"}, overwrite=True)
    new.restore_replaced()
    assert new.read_record()["status"] == "old"
