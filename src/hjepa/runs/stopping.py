"""Stop signals: a run saves a checkpoint first, and all its ranks stop at the same step.

Heavy modules are imported where they are needed, because every command imports this file.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hjepa.processes import is_main_process

if TYPE_CHECKING:
    from accelerate import Accelerator


# Launchers and `timeout` pass on a signal that the whole process group got: within these seconds it is the same one.
ECHO_SECONDS = 1.0
ECHO_SECONDS_OF_RANKS = 5.0


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


def end_at_once(number: int) -> None:
    """End this process and its loader workers with the exit code of a signal; checkpoints on disk are not touched.

    In an interactive session, only what runs is interrupted.
    """
    if hasattr(sys, "ps1"):
        raise KeyboardInterrupt
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch raises an error when a loader worker is killed
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
    name = signal.Signals(number).name
    with contextlib.suppress(RuntimeError, ValueError, OSError):  # the signal may have come in the middle of a write
        sys.stdout.flush()
        sys.stderr.write(
            f"hjepa: ended by a second {name}, without saving; --resume continues from the last checkpoint\n"
        )
        sys.stderr.flush()
    os._exit(128 + number)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGINT end what comes before training, also in a process that a shell script has started in the background.

    Such a process ignores SIGINT from its start; training takes it all the same, and a drive with images that has
    stalled may be waited for before the first step.
    """
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    try:
        if ignored:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    except ValueError:  # not the main thread (a notebook's worker): signals are not ours to handle there
        ignored = False
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


class StopSignals:
    """Records stop signals of this process, and lets all ranks agree to stop."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.sent: int | None = None  # signal received by this rank
        self.sent_at = 0.0
        self.agreed: int | None = None  # signal for which all ranks have agreed to stop

    @contextlib.contextmanager
    def remembered(self) -> Iterator[None]:
        """Turn SIGTERM, SIGUSR1 and SIGINT into a request to stop after the current step.

        A step may never end, if the drive with the images has stalled: a second signal ends the process at once.
        """
        echo = ECHO_SECONDS if self.accelerator.num_processes == 1 else ECHO_SECONDS_OF_RANKS

        def remember(number: int, _frame: object) -> None:
            if self.sent is None:
                self.sent, self.sent_at = number, time.monotonic()
            elif time.monotonic() - self.sent_at > echo:
                end_at_once(number)

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
