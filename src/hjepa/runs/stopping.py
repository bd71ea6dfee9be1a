"""A run that is asked to stop by a signal saves first, and all its processes stop at the same step.

Heavy modules are imported where they are needed: every command reads this file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hjepa.processes import is_main_process

if TYPE_CHECKING:
    from accelerate import Accelerator


class Stopped(Exception):
    """Training stopped on a signal after saving."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"{signal.Signals(number).name} at step {step}")
        self.number, self.step = number, step


def exit_code_after(stopped: Stopped) -> int:
    """Return the exit code of a process that a signal has stopped: 128 + signal, as shells report it."""
    return 128 + stopped.number


def requeue_slurm_job(stopped: Stopped) -> bool:
    """Ask SLURM to queue this job again, if it announced the end of the job's time with SIGUSR1.

    Returns whether it was asked: once per job, and only inside one.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if stopped.number != signal.SIGUSR1 or not job or not is_main_process() or not shutil.which("scontrol"):
        return False
    subprocess.run(["scontrol", "requeue", job], check=False)
    return True


class StopSignals:
    """Remembers that this process was asked to stop, and lets all processes agree on it."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.sent: int | None = None  # what this process was sent
        self.agreed: int | None = None  # what all processes have agreed to stop for

    @contextlib.contextmanager
    def remembered(self) -> Iterator[None]:
        """Turn SIGTERM, SIGUSR1 and SIGINT into a wish to stop after the current step."""

        def remember(number: int, _frame: object) -> None:
            self.sent = number

        wanted = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        try:
            before = {number: signal.signal(number, remember) for number in wanted}
        except ValueError:  # not the main thread (a notebook's worker): signals are not ours there
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def agree(self) -> bool:
        """Return whether any process got a signal; all must agree to stop at the same step."""
        if self.accelerator.num_processes == 1:
            self.agreed = self.sent
        else:
            import torch

            sent = torch.tensor([self.sent or 0], device=self.accelerator.device)
            self.agreed = int(self.accelerator.gather(sent).max()) or None
        return self.agreed is not None
