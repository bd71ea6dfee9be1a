"""Stop signals: a run saves a checkpoint first, and all its ranks stop at the same step.

Heavy modules are imported where they are needed, because every command imports this file.
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
    """Training was stopped by a signal and has saved a checkpoint."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"{signal.Signals(number).name} at step {step}")
        self.number, self.step = number, step


def exit_code_after(stopped: Stopped) -> int:
    """Return the exit code of a run that was stopped by a signal: 128 + signal number, as in shells."""
    return 128 + stopped.number


def requeue_slurm_job(stopped: Stopped) -> bool:
    """Requeue this SLURM job if SLURM announced the end of its time limit with SIGUSR1.

    Only rank 0 does so. Returns whether the job was requeued.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if stopped.number != signal.SIGUSR1 or not job or not is_main_process() or not shutil.which("scontrol"):
        return False
    subprocess.run(["scontrol", "requeue", job], check=False)
    return True


class StopSignals:
    """Records stop signals of this process, and lets all ranks agree to stop."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.sent: int | None = None  # signal received by this rank
        self.agreed: int | None = None  # signal for which all ranks have agreed to stop

    @contextlib.contextmanager
    def remembered(self) -> Iterator[None]:
        """Turn SIGTERM, SIGUSR1 and SIGINT into a request to stop after the current step."""

        def remember(number: int, _frame: object) -> None:
            self.sent = number

        wanted = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        try:
            before = {number: signal.signal(number, remember) for number in wanted}
        except ValueError:  # not the main thread (a notebook's worker): signals are not ours to handle there
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def agree(self) -> bool:
        """Return whether any rank got a signal; all must agree to stop at the same step."""
        if self.accelerator.num_processes == 1:
            self.agreed = self.sent
        else:
            import torch

            sent = torch.tensor([self.sent or 0], device=self.accelerator.device)
            self.agreed = int(self.accelerator.gather(sent).max()) or None
        return self.agreed is not None
