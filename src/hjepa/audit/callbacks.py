"""Callbacks that audit a trainer: ``LightningAudit`` for Lightning, ``TransformersAudit`` for transformers' Trainer.

Importing this module requires neither of them: each class is created on first access.
"""

import gc
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from hjepa.audit.observe.program.tensor_pairs import unwrap
from hjepa.audit.observe.replicas import world
from hjepa.audit.script import Outputs, Unusable
from hjepa.audit.specs import Spec
from hjepa.audit.teacher_audit import STEPS, TeacherAudit
from hjepa.audit.tell.report import Report

Where = str | nn.Module | Callable[[Any], nn.Module]
"""A module, its path (``model.encoder``), or a function that takes the trained model and returns the module."""


class LoopAudit:
    """Audits one run of a trainer; a framework's callback calls ``begin``, ``look_in`` and ``end``.

    ``student`` and ``teacher`` are paths in the trained model, functions of it, modules, or lists of these
    (backbone and projector, in the same order); without them, the pair is detected. ``start_step`` is the step
    of the schedule at which the run starts, by default the trainer's own step count. After ``steps`` optimizer
    steps have been watched, the reports are written and the summary is printed to standard error; ``report`` is
    None until then. With ``fail``, ``end`` raises ``ConformanceError`` unless the loop conforms.

    Raises ``ValueError`` for invalid arguments before training starts.
    """

    def __init__(
        self,
        student: Where | Sequence[Where] | None = None,
        teacher: Where | Sequence[Where] | None = None,
        spec: Spec | str | None = None,
        *,
        steps: int = STEPS,
        deep: bool = False,
        start_step: int | None = None,
        json: str | PathLike[str] | None = None,
        markdown: str | PathLike[str] | None = None,
        html: str | PathLike[str] | None = None,
        junit: str | PathLike[str] | None = None,
        fail: bool = False,
    ) -> None:
        super().__init__()
        if (student is None) != (teacher is None):
            raise ValueError("give both student and teacher, or neither to detect the pair")
        self.report: Report | None = None
        self._student, self._teacher = student, teacher
        self._how: dict[str, Any] = {"spec": spec, "steps": steps, "deep": deep}
        self._start_step = start_step
        self._fail = fail
        self._audit: TeacherAudit | None = None
        self._files = Outputs(
            *(Path(file).absolute() if file is not None else None for file in (json, markdown, html, junit))
        )
        TeacherAudit(**self._how)  # raises now what it would raise when training begins
        try:
            self._files.check()
        except Unusable as error:
            raise ValueError(str(error).removeprefix("--")) from None

    def begin(self, model: nn.Module, step: int = 0) -> None:
        """Start watching; a resumed run has already taken ``step`` optimizer steps."""
        if self._audit is not None:
            self._audit.stop()  # of a run that ended with an error
        self.report = None
        if self._student is None:
            gc.collect()  # or a model of an earlier run, held by nobody, would be taken for a teacher
        self._audit = TeacherAudit(
            _modules(model, self._student),
            _modules(model, self._teacher),
            start_step=step if self._start_step is None else self._start_step,
            **self._how,
        )
        self._audit.start()

    def look_in(self) -> None:
        """Report if all steps have been watched."""
        if self._audit is not None and self._audit.finished and self.report is None:
            self._publish(self._audit)

    def end(self, *, error: bool = False) -> None:
        """Stop watching and report.

        Raises ``ConformanceError`` if ``fail`` is set and the loop does not conform, unless the run itself ended
        with an error.
        """
        audit, self._audit = self._audit, None
        if audit is None:
            return
        audit.stop()
        report = self.report or self._publish(audit)
        if self._fail and not error:
            report.raise_for_failures()

    def _publish(self, audit: TeacherAudit) -> Report:
        report = audit.report()
        names = {"student": _names(self._student), "teacher": _names(self._teacher)}
        named: dict[str, Any] = {side: name for side, name in names.items() if name}
        self.report = report = replace(report, subject=replace(report.subject, **named))
        if world()[0] == 0:
            self._files.write(report)
            print(f"\n{report.summary()}\n", file=sys.stderr, flush=True)
        return report


class LightningHooks(LoopAudit):
    """Audits a Lightning run: ``Trainer(callbacks=[LightningAudit("encoder", "target", spec="ijepa")])``.

    Watches from the first training batch on (after the sanity check), so modules built by other callbacks and
    ``on_fit_start`` exist. To resume with several optimizers, give ``start_step``, because Lightning counts the
    steps of all optimizers together. The arguments are those of ``LoopAudit``.
    """

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin."""
        self.begin(pl_module, int(trainer.global_step) // max(1, len(trainer.optimizers)))

    def on_train_batch_end(self, *_: Any) -> None:
        """Report if all steps have been watched."""
        self.look_in()

    def on_fit_end(self, *_: Any) -> None:
        """Report if that has not been done."""
        self.end()

    def on_exception(self, *_: Any) -> None:
        """Remove the hooks when training ends with an error."""
        self.end(error=True)


class TransformersHooks(LoopAudit):
    """Audits a run of transformers' Trainer: ``Trainer(..., callbacks=[TransformersAudit("encoder", "target")])``.

    The arguments are those of ``LoopAudit``. The Trainer does not notify callbacks of an error: the hooks then
    stay until the steps have been watched or the next training begins.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        """Begin."""
        self.begin(model, int(state.global_step))

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Report if all steps have been watched."""
        self.look_in()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Report if that has not been done."""
        self.end()


def _modules(model: nn.Module, where: Where | Sequence[Where] | None) -> nn.Module | list[nn.Module] | None:
    if where is None:
        return None
    if isinstance(where, Sequence) and not isinstance(where, str):
        return [_module(model, one) for one in where]
    return _module(model, where)


def _module(model: nn.Module, where: Where) -> nn.Module:
    if isinstance(where, nn.Module):
        return where
    if not isinstance(where, str):
        found = where(model)
        if not isinstance(found, nn.Module):
            raise ValueError(f"the function for student or teacher returned a {type(found).__name__}, not a module")
        return found
    for start in (model, unwrap(model)[0]):
        value: Any = start
        for attribute in where.split("."):
            value = value.get(attribute) if isinstance(value, dict) else getattr(value, attribute, None)
        if isinstance(value, nn.Module):
            return value
    known = [name for name, _ in unwrap(model)[0].named_modules() if name and name.count(".") < 2]
    raise ValueError(
        f"{type(model).__name__} has no module {where!r}; its modules are {', '.join(known[:12]) or 'none'}"
    )


def _names(where: Where | Sequence[Where] | None) -> str:
    """Return the paths that the user gave, "" where it was something else."""
    given = [where] if isinstance(where, str) or not isinstance(where, Sequence) else list(where)
    return ", ".join(str(one) for one in given) if all(isinstance(one, str) for one in given) else ""


# name -> hooks, where the base class may live, its name, what to install
_CLASSES: dict[str, tuple[type[LoopAudit], tuple[str, ...], str, str]] = {
    "LightningAudit": (LightningHooks, ("lightning.pytorch", "pytorch_lightning"), "Callback", "lightning"),
    "TransformersAudit": (TransformersHooks, ("transformers",), "TrainerCallback", "transformers"),
}


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    hooks, homes, base, package = _CLASSES[name]
    for home in sorted(homes, key=lambda home: home not in sys.modules):  # the one in use, if one is
        try:
            callback = getattr(importlib.import_module(home), base)
        except ModuleNotFoundError as error:
            if error.name is None or not home.startswith(error.name):
                raise  # the framework is there, something that it needs is not
            continue
        made = type(name, (hooks, callback), {"__doc__": hooks.__doc__, "__module__": __name__})
        globals()[name] = made  # one class for good: callbacks are pickled by name
        return made
    raise ImportError(f"{name} needs {package}, which is not installed: pip install {package}")
