"""The folder of a run: which files it has, atomic writes, and locking."""

import contextlib
import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from hjepa.errors import UserError
from hjepa.files import write_json, write_text

_LOCKS: set[IO[str]] = set()  # held by this process


def _let_go_of_locks() -> None:
    """Close locks inherited by a forked child: a worker that outlives a killed run must not keep it locked."""
    for file in _LOCKS:
        file.close()  # the lock itself stays with the parent, whose copy is open
    _LOCKS.clear()


os.register_at_fork(after_in_child=_let_go_of_locks)


class RunFolder:
    """The files of one run: configuration, record, metrics, checkpoints, encoder, masks, evaluation."""

    def __init__(self, path: Path) -> None:
        self.shown = path  # as the user wrote it
        self.path = path = path.expanduser().resolve()
        self._replaced = path.with_name(f".{path.name}.replaced")
        self.config = path / "config.yaml"
        self.record = path / "run.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.encoder = path / "encoder.safetensors"
        self.encoder_card = path / "encoder.json"
        self.timm_config = path / "config.json"
        self.masks = path / "masks.json"
        self.evaluation = path / "evaluation.json"
        self.audit = path / "audit.json"
        self.audit_markdown = path / "audit.md"

    def refuse_if_occupied(self, *, overwrite: bool) -> None:
        """Raise UserError if the folder has content that must not be lost, or is not writable."""
        shown = self.shown
        if self.path.is_file():
            raise UserError(f"--out {shown}: this is a file, choose a folder")
        parent = next(p for p in (self.path, *self.path.parents) if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UserError(f"--out {shown}: {parent} is not a writable folder, choose another one")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if not overwrite:
            raise UserError(
                f"--out {shown}: not empty; continue that run with --resume, replace it with --overwrite, "
                "or name another folder"
            )
        if not self.record.is_file():
            raise UserError(
                f"--out {shown}: not empty and not a run; --overwrite replaces only runs, choose another folder"
            )

    def create(self, record: dict[str, Any], *, overwrite: bool) -> None:
        """Create the folder of a new run. An old run is set aside until ``discard_replaced``."""
        self.refuse_if_occupied(overwrite=overwrite)  # again: seconds have passed since the first look
        if self.record.is_file():
            if self._replaced.exists() and (self.checkpoints / "last").exists():
                shutil.rmtree(self._replaced)  # left by a kill; the run that replaced it stands
            if self._replaced.exists():
                shutil.rmtree(self.path)  # never got to its first checkpoint
            else:
                self.path.rename(self._replaced)
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_record(record)  # first, so that the folder is known as a run whatever happens next
        self.checkpoints.mkdir()

    def discard_replaced(self) -> None:
        """Remove the run that was overwritten, once the new one has saved a checkpoint."""
        if self._replaced.exists():
            shutil.rmtree(self._replaced)

    def restore_replaced(self) -> None:
        """Restore the run that was to be overwritten, if the new one has not saved a checkpoint."""
        if self._replaced.exists() and not (self.checkpoints / "last").exists():
            shutil.rmtree(self.path)
            self._replaced.rename(self.path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run for this process; raises UserError if another process is training it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_name(f".{self.path.name}.lock")
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"--out {self.shown}: another process is training this run; wait until it has finished"
                ) from None
            _LOCKS.add(file)
            try:
                yield
            finally:
                _LOCKS.discard(file)
                lock.unlink(missing_ok=True)

    def read_record(self) -> dict[str, Any]:
        """Return run.json; raises UserError if this is not a run."""
        try:
            record: dict[str, Any] = json.loads(self.record.read_text())
        except FileNotFoundError:
            raise UserError(f"{self.shown} is not a run: it has no run.json; check the path") from None
        except json.JSONDecodeError:
            raise UserError(f"{self.record} is damaged: restore it from a copy, or start a new run") from None
        return record

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace run.json."""
        write_json(self.record, record)

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Append one line; non-finite values become null."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(_finite(line)) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return all complete lines."""
        if not self.metrics.is_file():
            return []
        return list(_complete_lines(self.metrics.read_text()))

    def cut_metrics(self, last_step: int) -> None:
        """Drop lines after ``last_step``: they are logged again when the run resumes from there."""
        kept = [line for line in self.read_metrics() if line["step"] <= last_step]
        write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))


def _complete_lines(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):  # a line without an end was cut short by a kill
            yield json.loads(line)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
