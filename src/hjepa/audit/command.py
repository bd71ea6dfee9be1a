"""``hjepa audit``: parses its own options and passes everything after the script to the script."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from hjepa.audit.specs import Spec

USAGE = "hjepa audit [OPTIONS] (SCRIPT | -m MODULE) [ARGUMENTS OF THE SCRIPT ...]"
DESCRIPTION = """\
Run an unmodified training script and check whether its teacher (the EMA copy of the
student) is updated correctly. Put options before the script; everything after the
script is passed to it. The summary is printed to standard error.

exit code: 0 conforms, 1 deviates or fails, 2 usage error, 3 inconclusive
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (hjepa audit --help)")


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``hjepa audit``."""
    made = _Parser(
        "hjepa audit", usage=USAGE, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    made.add_argument("script", metavar="SCRIPT", help="Python training script, or -m and a module name")
    made.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="arguments passed to the script")
    what = made.add_argument_group("specification")
    what.add_argument("--spec", default=None, metavar="NAME", help="published method (ijepa, vjepa2, byol, dino, "
                      "moco, data2vec2, mean-teacher, ...), a .toml file, custom, or auto (default: auto, which "
                      "prescribes no momentum and reports the closest methods)")  # fmt: skip
    what.add_argument(
        "--total-steps", type=int, metavar="N", help="optimizer steps of the whole run, needed to check schedules"
    )
    what.add_argument(
        "--momentum", type=float, metavar="M", help="with custom: EMA momentum, the teacher's coefficient, such as 0.99"
    )
    what.add_argument(
        "--final-momentum", type=float, metavar="M", help="with custom: momentum at the end of the schedule"
    )
    what.add_argument("--kind", metavar="KIND", help="with custom: schedule, that is constant, linear or cosine")
    what.add_argument(
        "--start-step", type=int, default=0, metavar="N", help="optimizer step at which a resumed run continues"
    )
    which = made.add_argument_group("what to watch")
    which.add_argument(
        "--student", metavar="NAME", help="name in the script, such as model.encoder (default: detected)"
    )
    which.add_argument("--teacher", metavar="NAME", help="name in the script, such as model.target (default: detected)")
    which.add_argument(
        "--steps", type=int, default=20, metavar="N", help="number of optimizer steps to watch (default: 20)"
    )
    which.add_argument("--stop", action="store_true", help="end the script after the watched steps")
    which.add_argument("--deep", action="store_true", help="trace three steps instead of one (slower)")
    out = made.add_argument_group("reports")
    for name in ("json", "markdown", "html", "junit"):
        out.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write the report as {name} to FILE")
    return made


def run(words: Sequence[str]) -> int:
    """Parse ``words``, audit, and return the exit code.

    Raises ``ValueError`` or ``OSError`` with a one-line message for the user if the audit cannot start.
    """
    options = parse(words)
    from hjepa.audit.script import Outputs, audit_script  # torch is imported from here on

    spec = _spec(options)
    if options.steps < 2:
        raise ValueError(f"--steps {options.steps}: watch at least 2 optimizer steps")
    if options.start_step < 0:
        raise ValueError(f"--start-step {options.start_step}: give an optimizer step, 0 or more")
    return audit_script(
        options.script,
        options.arguments,
        module=options.module,
        spec=spec,
        student=options.student,
        teacher=options.teacher,
        steps=options.steps,
        stop=options.stop,
        deep=options.deep,
        start_step=options.start_step,
        outputs=Outputs(options.json, options.markdown, options.html, options.junit),
    )


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse what follows ``hjepa audit``; ``module`` says whether ``script`` is the name of a module."""
    at = _module_at(words)
    options = parser().parse_args(words if at is None else [*words[:at], *words[at + 1 :]])
    options.module = at is not None
    return options


def _module_at(words: Sequence[str]) -> int | None:
    """Return where ``-m`` stands among our options, None where the script comes first: its own ``-m`` is its own."""
    flags = {name for action in parser()._actions if action.nargs == 0 for name in action.option_strings}
    at = 0
    while at < len(words) and words[at].startswith("-"):
        if words[at] == "-m":
            if at + 1 == len(words):
                raise ValueError("-m: give the name of the module to run (hjepa audit --help)")
            return at
        at += 1 if words[at] in flags or "=" in words[at] else 2
    return None


def _spec(options: argparse.Namespace) -> "Spec":
    from hjepa.audit import specs

    given = {
        "total_steps": options.total_steps,
        "momentum": options.momentum,
        "final_momentum": options.final_momentum,
        "kind": options.kind,
    }
    given = {name: value for name, value in given.items() if value is not None}
    name = options.spec or ("custom" if "momentum" in given else "auto")
    if name.endswith(".toml"):
        if set(given) - {"total_steps"}:
            raise ValueError(
                f"--{min(set(given)).replace('_', '-')} cannot be combined with {name}: set it in that file"
            )
        return specs.from_toml(name)
    return specs.named(name, **given)


def main() -> None:
    """Run as a program: ``python -m hjepa.audit SCRIPT``, ``torchrun -m hjepa.audit SCRIPT``."""
    try:
        code = run(sys.argv[1:])
    except (ValueError, OSError) as error:
        print(f"hjepa audit: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    sys.exit(code)
