"""Starts the real command in two processes."""

import socket
import subprocess
import sys
from pathlib import Path

from commands import environment


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(launcher: str, out: Path, *words: object) -> subprocess.CompletedProcess[str]:
    port = str(free_port())
    heads = {
        "torchrun": [
            "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", port,
        ],
        "accelerate": [
            "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
            "--mixed_precision", "no",
            "--dynamo_backend", "no", "--main_process_ip", "127.0.0.1", "--main_process_port", port,
        ],
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", *heads[launcher], "-m", "hjepa.cli", *map(str, words), "--out", str(out)],
        capture_output=True, text=True, check=False, env=environment(), timeout=300,
    )  # fmt: skip
