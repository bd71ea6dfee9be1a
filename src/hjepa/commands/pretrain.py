"""``hjepa pretrain``: pretrain an encoder and write a run to disk."""

import contextlib
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hjepa.commands.given import given_layers
from hjepa.commands.self_audit import audit_first_steps
from hjepa.config import resolve
from hjepa.data.alike import content_notices
from hjepa.data.sources import FileSource, ImageSource, open_source
from hjepa.errors import UserError
from hjepa.models.hjepa import HJEPA
from hjepa.processes import is_main_process
from hjepa.report import write_report
from hjepa.runs import checkpoint as checkpoints
from hjepa.runs.callback import TrainingCallback
from hjepa.runs.folder import RunFolder
from hjepa.runs.record import new_record, write_config, write_mask_statistics
from hjepa.runs.resume import Resumed, read_run, refuse_other_depth, refuse_other_images
from hjepa.runs.run import Run
from hjepa.runs.session import Session
from hjepa.runs.stopping import interruptible
from hjepa.setup.autoconfig import resize_of
from hjepa.setup.build import Parts, build
from hjepa.setup.memory import out_of_memory_in_words
from hjepa.setup.starting_weights import load_starting_weights
from hjepa.training.health import LOSS_NOTE


def pretrain(
    data: Any,
    /,  # so that the section of settings called data can be given by name
    *,
    out: str | os.PathLike[str],
    recipe: str | None = None,
    config: str | os.PathLike[str] | None = None,
    budget: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    extend_to: int | None = None,
    init_from: str | os.PathLike[str] | None = None,
    options: Sequence[str] = (),
    callback: TrainingCallback | None = None,
    command: str | None = None,
    **settings: Mapping[str, Any],
) -> Run:
    """Pretrain an encoder on ``data`` and write the run folder ``out``.

    ``data`` is whatever the command takes, an array [n, H, W, C], a Dataset, or an iterable of images.
    ``budget`` is the wall-clock time that the run may take, such as ``20min``. Settings are given by section:
    ``pretrain("photos", out="runs/a", train={"steps": 500})``. Raises UserError for anything the user can fix; a
    call that is refused leaves the disk untouched.
    """
    callback, started = callback or TrainingCallback(), time.perf_counter()
    folder = RunFolder(Path(out))
    layers = given_layers(recipe, config, budget, options, settings)
    _refuse_contradictions(resume=resume, overwrite=overwrite, extend_to=extend_to, init_from=init_from)
    with interruptible(), contextlib.ExitStack() as held:
        before = None
        if resume:
            folder.read_record()  # a folder that is not a run is reported as such before it is locked
            _hold(folder, held)
            before = read_run(folder, layers, recipe, extend_to)
        else:
            folder.refuse_if_occupied(overwrite=overwrite)
        resolved = before.resolved if before else resolve(layers)
        source = open_source(data, resolved.config.data.channels, resolved.config.data.pages)
        if before:
            refuse_other_images(source, before.record)
        with out_of_memory_in_words(resolved.config):
            parts = build(resolved, source, started=started)
            if before:
                refuse_other_depth(before.resolved.config, parts.resolved.config)
                session = Session(parts, folder, before.record, callback, started)
                notices = _go_on(session, before)
            else:
                notices = [*_about(source, parts), *_load_into(parts.trainer.model, init_from)]
                record = new_record(command or _as_call(data, out), source, parts.trainer.model, parts.resolved.config)
                record |= {"repeat": _repeat(data, out, init_from), "init_from": init_from and os.fspath(init_from)}
                session = Session(parts, folder, record, callback, started)
            if session.main:  # everything that can be refused has been; from here on files change
                if before:
                    folder.cut_metrics(parts.trainer.step)
                    checkpoints.drop_after(folder.checkpoints, parts.trainer.step)
                else:
                    _hold(folder, held)
                    folder.create(record, overwrite=overwrite)
                _tell_start(session, notices)
            parts.trainer.accelerator.wait_for_everyone()
            session.begin_content()
            _train(session)
    return Run(Path(out).expanduser())


def _refuse_contradictions(
    *, resume: bool, overwrite: bool, extend_to: int | None, init_from: str | os.PathLike[str] | None
) -> None:
    if resume and overwrite:
        raise UserError("--resume and --overwrite contradict each other: either continue the run or replace it")
    if resume and init_from is not None:
        raise UserError("--init-from starts a new run, but --resume continues one: remove one of them")
    if extend_to is not None and not resume:
        raise UserError("--extend-to extends an existing run: add --resume, or use --train.length for a new run")


def _hold(folder: RunFolder, held: contextlib.ExitStack) -> None:
    """Keep other processes from training the same run; rank 0 holds the lock for all ranks."""
    if is_main_process():
        held.enter_context(folder.locked())


def _go_on(session: Session, before: Resumed) -> list[str]:
    """Restore a session to where its run stopped; return notices for the user."""
    if before.checkpoint:
        session.restore(before.checkpoint)
        return before.notices
    return [*_load_into(session.trainer.model, before.record.get("init_from")), *before.notices]


def _about(source: ImageSource, parts: Parts) -> list[str]:
    """Return what the user should know of the images, such as files that were left out."""
    of_files = source.notices() if isinstance(source, FileSource) else []
    return [*of_files, *content_notices(source, resize_of(parts.resolved.config))]


def _load_into(model: HJEPA, path: str | os.PathLike[str] | None) -> list[str]:
    if path is None:
        return []
    return [f"--init-from {path}: {matched}" for matched in load_starting_weights(model, path)]


def _tell_start(session: Session, notices: Sequence[str]) -> None:
    """Write and announce the configuration of the run."""
    write_config(session.folder, session.resolved)
    write_mask_statistics(session.folder, session.config, session.parts.sampler)
    session.callback.on_start(session.resolved, session.record, session.trainer.step)
    for text in (*notices, LOSS_NOTE):
        session.callback.on_notice(text)


def _train(session: Session) -> None:
    """Run the session; whatever happens, its report is rebuilt and a run that it replaces is not lost."""
    from_weights = session.record.get("init_from") is not None and session.trainer.step == 0
    try:
        with audit_first_steps(session, from_weights=from_weights):
            session.run()
    except BaseException:
        if session.main:
            session.folder.restore_replaced()
        raise
    finally:
        if session.main and session.folder.record.is_file():
            write_report(session.folder.path)


def _repeat(data: Any, out: str | os.PathLike[str], init_from: str | os.PathLike[str] | None) -> str | None:
    """Return the command that repeats the run from its config.yaml; None if DATA was a Python object."""
    if not isinstance(data, str | os.PathLike):
        return None
    words = ["hjepa", "pretrain", str(data), "--config", str(Path(out) / "config.yaml"), "--out", f"{Path(out)}-again"]
    return shlex.join([*words, *(["--init-from", str(init_from)] if init_from is not None else [])])


def _as_call(data: Any, out: str | os.PathLike[str]) -> str:
    shown = repr(data) if isinstance(data, str) else type(data).__name__
    return f"hjepa.pretrain({shown}, out={os.fspath(out)!r}, ...)"
