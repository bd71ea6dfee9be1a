"""Runs the real command in real processes."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from hjepa.cli import main

TIMING = {"images_per_second", "data_wait", "memory_gb"}


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a command: one thread, no colours."""
    return os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"} | extra


def hjepa(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``hjepa`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "hjepa.cli", *map(str, words)],
        capture_output=True, text=True, check=False, env=environment(), cwd=cwd,
    )  # fmt: skip


def call(*words: object) -> subprocess.CompletedProcess[str]:
    """Run ``hjepa`` in this process: for commands whose start-up time is not the point."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as left:
            code = left.code
    return subprocess.CompletedProcess(list(words), code, out.getvalue(), err.getvalue())


def start(words: Sequence[object], log: Path) -> subprocess.Popen[bytes]:
    """Start ``hjepa`` without waiting; what it prints goes to ``log``."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "hjepa.cli", *map(str, words)], stdout=file, stderr=file, env=environment()
        )


def metrics(run: Path, *, timing: bool = False) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl, without what differs between two equal runs."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return lines if timing else [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    """Return all weights of the newest checkpoint."""
    return load_file(run / "checkpoints" / "last" / "weights.safetensors")


def last_training(run: Path) -> dict[str, Any]:
    """Return optimizer, scaler and feature queue of the newest checkpoint."""
    return torch.load(run / "checkpoints" / "last" / "training.pt", weights_only=True)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested containers as dotted names."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{prefix}{key}.").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{prefix}{i}.").items()}
    return {prefix: value}


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its content, links with their target."""
    return {
        str(p.relative_to(folder)): p.readlink().as_posix().encode() if p.is_symlink() else p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_symlink() or p.is_file()
    }
