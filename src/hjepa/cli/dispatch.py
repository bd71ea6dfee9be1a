"""Run one command: what is common to all of them, errors and exit codes above all."""

import ctypes
import os
import shlex
import sys
from collections.abc import Sequence

from cyclopts import CycloptsError

from hjepa.cli.root import app
from hjepa.cli.usage import usage_error
from hjepa.errors import UserError
from hjepa.files import shown
from hjepa.processes import is_main_process, rank


def _let_idle_threads_sleep() -> None:
    """Have OpenMP's threads sleep while they wait for each other, unless the environment says otherwise.

    By default they spin, and beside another busy process the one that is waited for does not get the processor: two
    threads then take several times as long as one (benchmarks/results/speed/threads.md). OpenMP reads the variable when
    torch is loaded, so not later than here, and nothing is set in a program that only imports hjepa.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


ENCODE_IMAGES = ("evaluate", "embed", "search", "duplicates", "map", "serve")  # commands that encode many of them
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def _keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of returning it to the system, unless the environment says otherwise.

    Encoding asks for the same megabytes in every block. To get them from the system anew takes a third of the time on
    two cores (benchmarks/results/speed/probes.md). Other C libraries are left as they are.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 on success, 2 for user errors, 128 + n after signal n."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["audit"]:
        sys.exit(_audit(arguments[1:]))
    _let_idle_threads_sleep()
    if arguments[:1] and arguments[0] in ENCODE_IMAGES:
        _keep_freed_memory()
    debug = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    code = 0
    try:
        code = _dispatch(arguments)
    except UserError as error:
        if debug:
            raise
        _complain(str(error))
        code = 2
    except KeyboardInterrupt:  # outside training, where nothing has been written
        if debug:
            raise
        _complain("interrupted")
        code = 130
    except BrokenPipeError:  # the reader (head, less) has exited
        sys.stderr.close()
    except OSError as error:
        if debug or error.errno is None:
            raise
        _complain(f"{error.filename or 'a file'}: {error.strerror}")
        code = 2
    sys.exit(code)


def _audit(words: list[str]) -> int:
    """Hand everything to the auditor: what follows the script is the script's, ``--debug`` included."""
    from hjepa.audit.command import run

    try:
        return run(words)
    except (ValueError, OSError) as error:
        _complain(" ".join(str(error).split()))
        return 2


def _dispatch(arguments: list[str]) -> int:
    words, settings = split_settings(arguments)
    try:
        command, bound, ignored = app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UserError(usage_error(error, words)) from None
    if settings and "settings" not in ignored:
        raise UserError(f"unknown option {settings[0]}: see hjepa {' '.join(words[:1])} --help")
    if "settings" in ignored:
        bound.arguments["settings"] = settings
    from hjepa.runs.stopping import Stopped, exit_code_after, requeue_slurm_job

    try:
        command(*bound.args, **bound.kwargs)
    except Stopped as stopped:
        data, out = (str(bound.arguments.get(*name)) for name in (("data", "DATA"), ("out", "RUN")))
        again = shlex.join(["hjepa", "pretrain", data, "--out", out, "--resume"])
        _complain(f"stopped by {stopped}: saved; resume with {again}")
        requeue_slurm_job(stopped)
        return exit_code_after(stopped)
    if words[:1] == ["pretrain"] and {"--help", "-h"} & set(words):
        from hjepa.cli.pretrain import print_settings

        print_settings()
    return 0


def split_settings(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Separate ``--section.field value`` (settings) from the command's own words."""
    words: list[str] = []
    settings: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word.startswith("--") and "." in word.partition("=")[0]:
            settings.append(word)
            if "=" not in word and (value := next(rest, None)) is not None:
                settings.append(value)
        else:
            words.append(word)
    return words, settings


def _complain(text: str) -> None:
    who = "hjepa" if is_main_process() else f"hjepa, rank {rank()}"
    print(f"{who}: {shown(text)}", file=sys.stderr)  # it may hold a file name that is not UTF-8
