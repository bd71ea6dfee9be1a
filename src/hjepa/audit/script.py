"""``hjepa audit SCRIPT``: run an unmodified program and audit its first steps."""

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from hjepa.audit.judge.findings import Verdict
from hjepa.audit.specs import Spec
from hjepa.audit.tell.report import Report

if TYPE_CHECKING:
    from hjepa.audit.teacher_audit import TeacherAudit

_OURS = str(Path(__file__).parent) + os.sep


class Unusable(ValueError):
    """The user's input cannot be used; the message is one line, the exit code 2."""


class _Enough(BaseException):
    """Ends the script once everything has been seen (``--stop``)."""


@dataclass(frozen=True)
class Outputs:
    """Report files to write; None where a format is not wanted."""

    json: Path | None = None
    markdown: Path | None = None
    html: Path | None = None
    junit: Path | None = None

    def check(self) -> None:
        """Raise ``Unusable`` before the script runs if a report could not be written after it."""
        for option, path in self._wanted():
            if path.is_dir():
                raise Unusable(f"--{option} {path} is a folder: give the path of a file")
            if not path.absolute().parent.is_dir():
                raise Unusable(f"--{option} {path}: the folder {path.parent} does not exist; create it first")

    def write(self, report: Report) -> None:
        """Write the report in every wanted format."""
        texts = {
            "json": report.json_text,
            "markdown": report.to_markdown,
            "html": report.to_html,
            "junit": report.to_junit,
        }
        for option, path in self._wanted():
            path.write_text(texts[option](), encoding="utf-8")

    def _wanted(self) -> list[tuple[str, Path]]:
        named = {"json": self.json, "markdown": self.markdown, "html": self.html, "junit": self.junit}
        return [(option, path) for option, path in named.items() if path is not None]


@dataclass(frozen=True)
class Program:
    """What is run: how Python names it, its compiled text, and the module's specification for ``-m``."""

    script: str
    file: str
    code: CodeType
    path: str  # what stands first in sys.path
    spec: ModuleSpec | None = None


@dataclass(frozen=True)
class Asked:
    """How to audit: what ``TeacherAudit`` takes, and where the reports go.  Picklable, for child processes."""

    student: str | None
    teacher: str | None
    spec: Spec | None
    steps: int
    deep: bool
    start_step: int
    script: str
    outputs: Outputs

    def __call__(self) -> "TeacherAudit":
        """Return an audit that reports by itself, when its steps have been watched or training ends."""
        audit = self.audit(lambda: self.publish(audit.report()))
        return audit

    def audit(self, on_done: Callable[[], None] | None = None) -> "TeacherAudit":
        """Return an audit that has not been started."""
        from hjepa.audit.teacher_audit import TeacherAudit

        return TeacherAudit(
            self.student, self.teacher, spec=self.spec, steps=self.steps, deep=self.deep, start_step=self.start_step,
            on_done=on_done, script=self.script,
        )  # fmt: skip

    def publish(self, report: Report) -> None:
        """Write the reports and print the summary, in the first process of a group."""
        from hjepa.audit.observe.replicas import world

        if world()[0] == 0:
            self.outputs.write(report)
            print(f"\n{report.summary()}\n", file=sys.stderr, flush=True)


def audit_script(
    script: str | os.PathLike[str],
    arguments: Sequence[str] = (),
    *,
    module: bool = False,
    spec: Spec | None = None,
    student: str | None = None,
    teacher: str | None = None,
    steps: int = 20,
    stop: bool = False,
    deep: bool = False,
    start_step: int = 0,
    outputs: Outputs | None = None,
) -> int:
    """Run ``script`` as Python would, audit it, write the reports, and return the exit code.

    With ``module``, ``script`` is the name of a module and runs as with ``python -m``. The summary goes to standard
    error. The exit code is that of the verdict (0, 1, 3), or the script's own if the loop conforms and the script
    fails. Raises ``Unusable`` before anything runs.
    """
    outputs = Outputs() if outputs is None else _absolute(outputs)
    outputs.check()
    program = _module(os.fspath(script)) if module else _script(os.fspath(script))

    from hjepa.audit.children import watched
    from hjepa.audit.observe.replicas import world

    asked = Asked(student, teacher, spec, steps, deep, start_step, program.script, outputs)
    reports: list[Report] = []

    def done() -> None:
        reports.append(audit.report())
        asked.publish(reports[-1])
        if stop and not ending:
            raise _Enough

    audit = asked.audit(done)
    ending = False
    own_code = 0
    with watched(audit, asked) as children:
        audit.start()
        try:
            own_code = _run(program, arguments)
            if own_code:
                audit.interrupted = f"the script exited with code {own_code}"
        except _Enough:
            pass
        finally:
            ending = True
            audit.stop()
        family = children()
    if reports:
        report = reports[-1]
    elif family.worst is not None:
        return family.worst.exit_code or own_code
    else:
        audit.children = family.started
        report = audit.report()
        asked.publish(report)
    if report.verdict is Verdict.CONFORMS and own_code:
        return own_code
    return report.exit_code if world()[0] == 0 else 0


def _script(script: str) -> Program:
    path = Path(script)
    if not path.is_file():
        raise Unusable(f"{path} is not a file: give the path of a Python script")
    file = script if path.is_absolute() else f"{Path.cwd()}{os.sep}{script}"  # as Python names its main script
    try:
        code = compile(path.read_bytes(), file, "exec")
    except (SyntaxError, ValueError) as error:
        raise Unusable(f"{path} is not a valid Python script: {error}") from None
    return Program(script, file, code, str(path.resolve().parent))


def _module(name: str) -> Program:
    """Find a module as ``python -m`` does: from the working directory on; a package runs its ``__main__``."""
    before = sys.path[0]
    sys.path[0] = str(Path.cwd())
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
        loader = spec.loader if spec is not None else None
        code = loader.get_code(spec.name) if spec is not None and isinstance(loader, InspectLoader) else None
    except (ImportError, SyntaxError, ValueError) as error:
        raise Unusable(f"-m {name} cannot be run: {error}") from None
    finally:
        sys.path[0] = before
    if spec is None or code is None or spec.origin is None:
        raise Unusable(f"-m {name}: no such module, searched from {Path.cwd()}")
    return Program(spec.origin, spec.origin, code, str(Path.cwd()), spec)


def _absolute(outputs: Outputs) -> Outputs:
    """Return the files as seen from here: the script may change the working directory."""
    return Outputs(*(path.absolute() if path is not None else None for path in (
        outputs.json, outputs.markdown, outputs.html, outputs.junit
    )))  # fmt: skip


def _run(program: Program, arguments: Sequence[str]) -> int:
    """Run the compiled program as ``__main__``; return its exit code, 1 after an error (shown as Python does)."""
    main = ModuleType("__main__")
    loader: Any = SourceFileLoader("__main__", program.file)
    if program.spec is not None:
        loader = program.spec.loader
        main.__dict__.update(__package__=program.spec.parent)
    main.__dict__.update(
        __file__=program.file, __builtins__=__builtins__, __spec__=program.spec, __loader__=loader, __cached__=None
    )
    if sys.version_info < (3, 14):  # later ones make it when it is asked for
        main.__annotations__ = {}
    before = sys.argv, sys.path[0], sys.modules["__main__"], sys.excepthook
    sys.argv, sys.path[0], sys.modules["__main__"] = [program.script, *arguments], program.path, main
    try:
        exec(program.code, main.__dict__)
    except SystemExit as ending:
        return _exit_code(ending)
    except _Enough:
        raise
    except KeyboardInterrupt:
        print("hjepa audit: interrupted", file=sys.stderr)
        return 130
    except BaseException as error:  # noqa: BLE001  the script's own error
        return _show(error)
    finally:
        sys.argv, sys.path[0], sys.modules["__main__"], sys.excepthook = before
    return 0


def _exit_code(ending: SystemExit) -> int:
    """Return the code with which Python would end; what is no number is printed."""
    if ending.code is None or isinstance(ending.code, int):
        return ending.code or 0
    print(ending.code, file=sys.stderr)
    return 1


def _show(error: BaseException) -> int:
    """Show an error of the script as Python would, by the script's own ``sys.excepthook`` if it set one."""
    _without_our_frames(error)
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except SystemExit as ending:
        return _exit_code(ending)
    except BaseException as second:  # noqa: BLE001  the hook's error, in the words of Python
        second.__context__ = None
        _without_our_frames(second)
        print("Error in sys.excepthook:", file=sys.stderr)
        traceback.print_exception(second)
        print("\nOriginal exception was:", file=sys.stderr)
        traceback.print_exception(error)
    return 1


def _without_our_frames(error: BaseException) -> None:
    """Take the frames of the auditor out of the tracebacks of an error and of those that led to it."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        pending += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
        kept: list[TracebackType] = []
        frame = one.__traceback__
        while frame is not None:
            if not frame.tb_frame.f_code.co_filename.startswith(_OURS):
                kept.append(frame)
            frame = frame.tb_next
        for this, following in zip(kept, [*kept[1:], None], strict=True):
            this.tb_next = following
        one.__traceback__ = kept[0] if kept else None
