"""``hjepa audit SCRIPT``: runs an unmodified program and audits its first steps."""

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from hjepa.audit.findings import Verdict
from hjepa.audit.report import Report
from hjepa.audit.specs import Spec


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
    path = Path(script)
    if not path.is_file():
        raise Unusable(f"{path} is not a file: name the Python script to run")
    outputs = Outputs() if outputs is None else _absolute(outputs)
    outputs.check()
    try:
        code = compile(path.read_bytes(), str(path), "exec")
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
        own_code = _run(path, code, arguments)
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


def _run(path: Path, code: object, arguments: Sequence[str]) -> int:
    """Run the compiled script as ``__main__``; return its exit code, 1 after an error (shown as Python does)."""
    main = ModuleType("__main__")
    main.__dict__.update(__file__=str(path), __builtins__=__builtins__, __spec__=None, __loader__=None)
    before = sys.argv, sys.path[0], sys.modules["__main__"]
    sys.argv, sys.path[0], sys.modules["__main__"] = [str(path), *arguments], str(path.resolve().parent), main
    try:
        exec(code, main.__dict__)  # type: ignore[arg-type]
    except SystemExit as ending:
        if ending.code is None or isinstance(ending.code, int):
            return ending.code or 0
        print(ending.code, file=sys.stderr)
        return 1
    except _Enough:
        raise
    except KeyboardInterrupt:
        print("hjepa audit: interrupted", file=sys.stderr)
        return 130
    except BaseException as error:  # noqa: BLE001  the script's own error, shown as Python shows it
        shown = error.__traceback__
        while shown is not None and shown.tb_frame.f_code.co_filename == __file__:
            shown = shown.tb_next  # our own frames are no help
        traceback.print_exception(type(error), error, shown)
        return 1
    finally:
        sys.argv, sys.path[0], sys.modules["__main__"] = before
    return 0
