"""Stop signals: the first asks, the second ends the run at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import environment, last_weights

SCRIPT = '''
import sys, time
from pathlib import Path
import numpy as np
import hjepa
from conftest import TINY

class Stalling:
    """A source on a network drive: it stalls as soon as there is a file called stall."""
    def __len__(self): return 64
    def __getitem__(self, i):
        if Path("early").exists() and Path("run").exists(): Path("stall").touch()
        if Path("stall").exists():
            Path("stalled").touch()
            time.sleep(600)
        return np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)

sections = {name: dict(fields) for name, fields in TINY.items()}
sections["data"]["workers"] = int(sys.argv[1])
sections["train"] |= {"length": 100000, "checkpoint_every": 3, "log_every": 1}
hjepa.pretrain(Stalling(), out="run", **sections)
'''


def wait_for(condition, seconds: float = 300.0) -> None:
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def start(folder: Path, workers: int, *, background: bool = False) -> subprocess.Popen[bytes]:
    (folder / "script.py").write_text(SCRIPT)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "script.py", str(workers)],
            cwd=folder, stdout=log, stderr=log, env=environment(PYTHONPATH=paths),
            preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if background else None,
        )  # fmt: skip


@pytest.fixture
def stalled(tmp_path, request):
    """A run that has saved checkpoints and waits for its images."""
    process = start(tmp_path, request.param)
    wait_for(lambda: (tmp_path / "run" / "checkpoints" / "last").exists() or process.poll() is not None)
    (tmp_path / "stall").touch()
    wait_for(lambda: (tmp_path / "stalled").exists() or process.poll() is not None)
    time.sleep(1.0)  # the batches that are ready are trained on
    yield process, tmp_path
    process.kill()
    process.wait()


@pytest.mark.parametrize("stalled", [0, 2], indirect=True)
@pytest.mark.slow
def test_a_second_signal_ends_a_stalled_run_at_once(stalled):
    """Case 21."""
    process, folder = stalled
    workers = children_of(process.pid)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)  # it waits for the end of the step, and for its images
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 128 + signal.SIGTERM
    wait_for(lambda: not any(map(alive, workers)), 4)
    said = (folder / "log").read_text()
    assert "second SIGTERM" in said.splitlines()[-1] and "--resume" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert last_weights(folder / "run")


@pytest.mark.parametrize("stalled", [0], indirect=True)
@pytest.mark.slow
def test_a_signal_that_a_launcher_passes_on_is_the_same_one(stalled):
    process, folder = stalled
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    assert "second" not in (folder / "log").read_text()


@pytest.mark.slow
def test_a_run_that_stalls_before_its_first_step_ends_as_well(tmp_path):
    (tmp_path / "early").touch()
    process = start(tmp_path, 0)
    wait_for(lambda: (tmp_path / "stalled").exists())
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 128 + signal.SIGINT


@pytest.mark.slow
def test_ctrl_c_ends_what_stalls_before_training_also_in_the_background_of_a_script(tmp_path):
    """A shell has such a process ignore SIGINT; training takes it, so what comes before does as well."""
    (tmp_path / "stall").touch()
    process = start(tmp_path, 0, background=True)
    wait_for(lambda: (tmp_path / "stalled").exists())
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(5) == -signal.SIGINT
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "run").exists()
