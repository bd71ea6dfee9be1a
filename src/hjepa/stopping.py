"""What follows when a run was asked to stop by a signal."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable


class Stopped(Exception):
    """Training stopped on a signal after saving."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"{signal.Signals(number).name} at step {step}")
        self.number, self.step = number, step


def leave(stopped: Stopped, *, again: str, say: Callable[[str], None]) -> int:
    """Return the exit code 128 + signal; after SIGUSR1 inside SLURM the job is queued again first.

    ``again`` is the command that goes on; under a launcher (torchrun) it is what follows it.
    """
    say(f"{stopped}: saved; go on with {again}")
    job = os.environ.get("SLURM_JOB_ID")
    first = os.environ.get("RANK", "0") == "0"
    if stopped.number == signal.SIGUSR1 and job and first and shutil.which("scontrol"):
        subprocess.run(["scontrol", "requeue", job], check=False)
    return 128 + stopped.number
