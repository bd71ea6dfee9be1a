"""Checkpoints: everything a run needs to resume, written atomically and verified by checksums."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from hjepa.errors import UserError
from hjepa.files import flush_to_disk, load_tensors

WEIGHTS, TRAINING, STATE, MANIFEST = "weights.safetensors", "training.pt", "state.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint. ``state`` is JSON: step, skipped steps, configuration, health."""

    weights: dict[str, Tensor]
    training: dict[str, Any]  # optimizer, scaler, feature queue: tensors and plain values
    state: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, *, keep: int, best: bool) -> Path:
    """Write ``step-XXXXXXXX`` below ``folder`` and point ``last`` (and ``best``) at it.

    The folder is written under a temporary name, flushed to the disk, then renamed, so a kill at any moment
    leaves the previous checkpoint intact. All but the newest ``keep`` and the best are removed afterwards.
    """
    name = f"step-{checkpoint.state['step']:08d}"
    for leftover in folder.glob(".step-*.tmp"):
        shutil.rmtree(leftover)
    if not (folder / name).exists():  # it may be there: killed after the rename, before the link
        _write(folder / f".{name}.tmp", checkpoint).rename(folder / name)
    for link in ("best", "last") if best else ("last",):  # ``last`` last: the state saved in it speaks of ``best``
        _point(folder / link, name)
    flush_to_disk(folder)
    _remove_old(folder, keep)
    return folder / name


def _write(beside: Path, checkpoint: Checkpoint) -> Path:
    """Write all files of a checkpoint and flush them to the disk."""
    beside.mkdir()
    save_file({key: tensor.contiguous() for key, tensor in checkpoint.weights.items()}, beside / WEIGHTS)
    torch.save(checkpoint.training, beside / TRAINING)
    (beside / STATE).write_text(json.dumps(checkpoint.state, indent=1) + "\n")
    manifest = {file: _digest(beside / file) for file in (WEIGHTS, TRAINING, STATE)}
    (beside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    for file in (*manifest, MANIFEST, ""):
        flush_to_disk(beside / file)
    return beside


def drop_after(folder: Path, step: int) -> None:
    """Remove checkpoints after ``step``: a run that resumes from there writes them again.

    They may be damaged ones from which the user has gone back, or belong to a different number of steps.
    """
    for path in folder.glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    if (folder / "best").is_symlink() and not (folder / "best").exists():
        (folder / "best").unlink()


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; raises UserError naming the file if anything is missing or damaged."""
    if not path.is_dir():
        raise UserError(f"{path}: there is no checkpoint to resume from; start over with --overwrite")
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        for file, expected in manifest.items():
            if _digest(path / file) != expected:
                raise UserError(f"{path / file} is damaged (its checksum differs): {_older(path)}")
        return Checkpoint(
            weights=load_tensors(path / WEIGHTS),
            training=torch.load(path / TRAINING, map_location="cpu", weights_only=True),
            state=json.loads((path / STATE).read_text()),
        )
    except FileNotFoundError as error:
        missing = Path(error.filename or path).name
        raise UserError(f"{path} is incomplete ({missing} is missing): {_older(path)}") from None
    except (json.JSONDecodeError, SafetensorError):
        raise UserError(f"{path} is damaged: {_older(path)}") from None


def _older(path: Path) -> str:
    """Tell how to resume from the newest other checkpoint."""
    damaged = path.resolve().name
    others = sorted(p.name for p in path.parent.glob("step-*") if p.name != damaged)
    if not others:
        return "there is no older checkpoint, start over with --overwrite"
    return f"go back to an older one with 'ln -sfn {others[-1]} {path.parent / 'last'}' and resume"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _point(link: Path, name: str) -> None:
    """Make a symbolic link point at ``name``, replacing it in one move."""
    beside = link.with_name(f".{link.name}.tmp")
    beside.unlink(missing_ok=True)
    beside.symlink_to(name)
    beside.replace(link)


def _remove_old(folder: Path, keep: int) -> None:
    pointed = {(folder / link).resolve().name for link in ("last", "best")}
    for old in sorted(folder.glob("step-*"))[:-keep]:
        if old.name not in pointed:
            shutil.rmtree(old)
