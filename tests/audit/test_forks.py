"""Runs audits fast: each in a child forked from one process that has torch and the rest imported already.

``audit(...)`` is for the other tests of the auditor; the tests here show that it can be trusted.
"""

import atexit
import contextlib
import faulthandler
import functools
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
LIMIT = 120.0  # seconds that one audited script may take
IMPORTED = (
    "torch._dynamo", "torch.distributed", "timm", "accelerate", "hjepa.audit.command", "hjepa.audit.script",
    "hjepa.audit.teacher_audit",
)  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """How a script ended: exit code (negative: a signal), what it printed, and the audit's JSON."""

    code: int
    out: str
    err: str
    report: dict[str, Any] | None

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- standard output\n{self.out}\n--- standard error\n{self.err}"

    @property
    def fired(self) -> set[str]:
        """The rules that found a fault."""
        assert self.report is not None, str(self)
        return {f["rule"] for f in self.report["findings"] if f["status"] in ("fail", "warn")}

    def finding(self, rule: str) -> dict[str, Any]:
        """Return what a rule said."""
        assert self.report is not None, str(self)
        return next(f for f in self.report["findings"] if f["rule"] == rule)


class Forks:
    """The process that forks."""

    def __init__(self, limit: float = LIMIT) -> None:
        self.limit = limit
        self._folder = tempfile.TemporaryDirectory(prefix="hjepa-audit-tests-")
        self.folder = Path(self._folder.name)
        self._errors = self.folder / "server.err"
        path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(limit)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "COLUMNS": "100"},
            )
        self._count = 0

    def run(self, words: list[str], cwd: Path, *, audited: bool = True) -> Ran:
        """Run ``hjepa audit WORDS`` (or the plain script) in a child and wait for its end."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self._count += 1
        out, err, report = (self.folder / f"{self._count}.{kind}" for kind in ("out", "err", "json"))
        if audited:
            words = ["--json", str(report), *words]
        order = {"words": words, "cwd": str(cwd), "out": str(out), "err": str(err), "audited": audited}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            code = self.process.wait(10)
            raise AssertionError(f"the forking process ended with code {code}:\n{self._errors.read_text()}")
        found = json.loads(report.read_text()) if report.exists() else None
        printed = (file.read_bytes().decode(errors="replace") for file in (out, err))
        ran = Ran(int(answer), *printed, found)
        for file in (out, err, report):
            file.unlink(missing_ok=True)
        return ran

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process.stdout.close()
        self._folder.cleanup()


@functools.cache
def forks() -> Forks:
    """Return the process of this test session."""
    made = Forks()
    atexit.register(made.close)
    return made


def audit(*words: object, cwd: Path = TESTS) -> Ran:
    """Run ``hjepa audit WORDS``."""
    return forks().run([str(word) for word in words], cwd)


def plain(*words: object, cwd: Path = TESTS) -> Ran:
    """Run a script without the auditor."""
    return forks().run([str(word) for word in words], cwd, audited=False)


# ---------------------------------------------------------------------- inside the process that forks


def serve(limit: float) -> None:
    """Fork a child for each line on standard input, and answer with its exit code."""
    for name in IMPORTED:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _child(order, limit)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what it started and left behind
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _child(order: dict[str, Any], limit: float) -> None:
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    out, err = (os.open(order[key], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for key in ("out", "err"))
    for number, file in enumerate((null, out, err)):
        os.dup2(file, number)
    faulthandler.dump_traceback_later(limit, exit=True)  # says where it hung
    os.chdir(order["cwd"])
    multiprocessing.process.ORIGINAL_DIR = order["cwd"]  # as if Python had been started here
    code = 99
    try:
        code = _run(order)
    except BaseException:  # noqa: BLE001  whatever it was, the test must see it
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _run(order: dict[str, Any]) -> int:
    try:
        if order["audited"]:
            sys.argv = ["hjepa audit", *order["words"]]
            importlib.import_module("hjepa.audit.command").main()
        else:
            sys.argv = order["words"]
            sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    return 0


# ---------------------------------------------------------------------- is it reliable


@pytest.fixture
def short():
    made = Forks(limit=2.0)
    yield made
    made.close()


@pytest.mark.slow
def test_a_hang_a_crash_and_orphans_are_reported_and_removed(short, tmp_path):
    script = tmp_path / "script.py"

    script.write_text("import time\nprint('begun', flush=True)\ntime.sleep(60)\n")
    hung = short.run([str(script)], tmp_path)
    assert hung.code == 1 and hung.out == "begun\n" and hung.report is None
    assert "Timeout" in hung.err and 'script.py", line 3' in hung.err, hung

    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    assert short.run([str(script)], tmp_path).code == -signal.SIGSEGV

    script.write_text("import subprocess\nprint(subprocess.Popen(['sleep', '60']).pid)\n")
    left = short.run([str(script)], tmp_path)
    orphan = Path(f"/proc/{left.out.strip()}/stat")
    time.sleep(0.2)
    assert not orphan.exists() or orphan.read_text().split()[2] == "Z", left

    children = Path(f"/proc/{short.process.pid}/task/{short.process.pid}/children")
    if children.exists():
        assert children.read_text().strip() == ""  # no zombie

    script.write_text("print('still here')\n")
    assert short.run([str(script)], tmp_path).out == "still here\n"

    short.process.kill()
    with pytest.raises(AssertionError, match="the forking process ended with code -9"):
        short.run([str(script)], tmp_path)


if __name__ == "__main__":
    serve(float(sys.argv[1]))
