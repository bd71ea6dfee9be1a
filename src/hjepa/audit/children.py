"""Audits processes that a script starts itself, as the released I-JEPA does for every device.

A process started while ``watched`` is active runs its own audit. It prints its summary and writes the reports if it
has rank 0, and saves its verdict in a folder for the process that started it.
"""

import contextlib
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from hjepa.audit.judge.findings import Verdict
from hjepa.audit.observe.hooks.interception import intercept

Run = Callable[..., Any]


@dataclass
class Child:
    """What runs in a child: the program's own function, audited by ``how``; picklable for the start method spawn."""

    target: Run
    how: Callable[[], Any]
    folder: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program's own function, audited."""
        for audit in _running:  # of the process that was forked
            audit.forget()
        _running.clear()
        audit = self.how()
        audit.start()
        try:
            return self.target(*args, **kwargs)
        finally:
            audit.stop()
            seen = audit.report()
            if seen.steps:
                note = Path(self.folder) / f"{os.getpid()}.verdict"
                note.write_text(seen.verdict.value, encoding="utf-8")


_running: list[Any] = []


@contextlib.contextmanager
def watched(audit: Any, how: Callable[[], Any]) -> Iterator[Callable[[], "Children"]]:
    """Audit children started inside; what is yielded waits for them and tells what they were."""
    started: list[str] = []
    with tempfile.TemporaryDirectory(prefix="hjepa-audit-") as folder:

        def start(go_on: Run, process: BaseProcess) -> Any:
            target = getattr(process, "_target", None)
            ours = str(getattr(target, "__module__", "")).startswith(("torch.utils.data", "multiprocessing"))
            if target is not None and not process.daemon and not ours:  # (a data loader's workers train nothing)
                started.append(getattr(target, "__name__", type(target).__name__))
                process._target = Child(target, how, folder)  # type: ignore[attr-defined]
            return go_on(process)

        _running.append(audit)
        leave = intercept(BaseProcess, "start", start)

        def ended() -> Children:
            for process in multiprocessing.active_children():
                if not process.daemon:
                    process.join()
            verdicts = [Verdict(note.read_text(encoding="utf-8")) for note in sorted(Path(folder).glob("*.verdict"))]
            return Children(started, verdicts)

        try:
            yield ended
        finally:
            leave()
            if audit in _running:
                _running.remove(audit)


@dataclass
class Children:
    """Names of the functions that children ran, and the verdicts of those that trained."""

    started: list[str]
    verdicts: list[Verdict]

    @property
    def worst(self) -> Verdict | None:
        """The verdict with the highest exit code; None if no child trained anything that was audited."""
        order = [Verdict.FAILS, Verdict.DEVIATES, Verdict.INCONCLUSIVE, Verdict.CONFORMS]
        return next((verdict for verdict in order if verdict in self.verdicts), None)
