"""``hjepa audit SCRIPT``: runs an unmodified program and audits its first steps."""

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType

from hjepa.audit.findings import Verdict
from hjepa.audit.report import Report
from hjepa.audit.specs import Spec

_OURS = str(Path(__file__).parent) + os.sep


class Unusable(ValueError):
    """What the user gave cannot be used; the message is one line.  Exit code 2."""


class _Enough(BaseException):
    """Ends the script once everything has been seen (``--stop``)."""


@dataclass(frozen=True)
class Outputs:
    """Files to write; None: not wanted."""

    json: Path | None = None
    markdown: Path | None = None
    html: Path | None = None
    junit: Path | None = None

    def check(self) -> None:
        """Refuse, before the script runs, what could not be written after it.  Raises ``Unusable``."""
        for option, path in self._wanted():
            if path.is_dir():
                raise Unusable(f"--{option} {path} is a folder: name a file")
            if not path.absolute().parent.is_dir():
                raise Unusable(f"--{option} {path}: the folder {path.parent} does not exist: make it first")

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


def audit_script(
    script: str | os.PathLike[str],
    arguments: Sequence[str] = (),
    *,
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

    The summary goes to standard error. The code is the verdict's (0, 1, 3); where the verdict is no
    failure and the script itself ended with a code, that one. Raises ``Unusable`` before anything runs.
    """
    script = os.fspath(script)
    path = Path(script)
    if not path.is_file():
        raise Unusable(f"{path} is not a file: name the Python script to run")
    file = script if path.is_absolute() else f"{Path.cwd()}{os.sep}{script}"  # as Python names its main script
    outputs = Outputs() if outputs is None else _absolute(outputs)
    outputs.check()
    try:
        code = compile(path.read_bytes(), file, "exec")
    except (SyntaxError, ValueError) as error:
        raise Unusable(f"{path} is no Python script: {error}") from None

    from hjepa.audit.replicas import world
    from hjepa.audit.session import TeacherAudit

    reports: list[Report] = []

    def done() -> None:
        reports.append(audit.report())
        if world()[0] == 0:
            outputs.write(reports[-1])
            print(f"\n{reports[-1].summary()}\n", file=sys.stderr, flush=True)
        if stop and not ending:
            raise _Enough

    audit = TeacherAudit(
        student, teacher, spec=spec, steps=steps, deep=deep, start_step=start_step, on_done=done, script=str(path)
    )
    ending = False
    own_code = 0
    first = world()[0] == 0
    audit.start()
    try:
        own_code = _run(script, file, code, arguments)
    except _Enough:
        pass
    finally:
        ending = True
        audit.stop()
    if reports:
        report = reports[-1]
    else:
        report = audit.report()
        if first:
            outputs.write(report)
            print(f"\n{report.summary()}\n", file=sys.stderr, flush=True)
    if own_code and report.verdict is Verdict.INCONCLUSIVE and first:
        print(f"hjepa audit: the script itself ended with code {own_code}", file=sys.stderr)
    if report.verdict is Verdict.CONFORMS and own_code:
        return own_code
    return report.exit_code if first else 0


def _absolute(outputs: Outputs) -> Outputs:
    """Return the files as seen from here: the script may change the working directory."""
    return Outputs(*(path.absolute() if path is not None else None for path in (
        outputs.json, outputs.markdown, outputs.html, outputs.junit
    )))  # fmt: skip


def _run(script: str, file: str, code: CodeType, arguments: Sequence[str]) -> int:
    """Run the compiled script as ``__main__``; return its exit code, 1 after an error (shown as Python does)."""
    main = ModuleType("__main__")
    loader = SourceFileLoader("__main__", file)
    main.__dict__.update(__file__=file, __builtins__=__builtins__, __spec__=None, __loader__=loader, __cached__=None)
    if sys.version_info < (3, 14):  # later ones make it when it is asked for
        main.__annotations__ = {}
    before = sys.argv, sys.path[0], sys.modules["__main__"], sys.excepthook
    sys.argv, sys.path[0], sys.modules["__main__"] = [script, *arguments], str(Path(script).resolve().parent), main
    try:
        exec(code, main.__dict__)
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
