"""The commands: parse, call, print. Nothing is computed here.

Heavy modules are imported inside the commands, so that ``hjepa --help`` answers at once.
"""

import json as jsonlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from hjepa.errors import UserError
from hjepa.processes import is_main_process, rank
from hjepa.usage import usage_error
from hjepa.version import __version__

app = App(
    name="hjepa",
    help="Pretrain image encoders on your own unlabelled images, and learn whether it worked.",
    version=__version__,
    version_flags=["--version"],
)

Settings = Annotated[list[str], Parameter(parse=False)]


@app.command
def pretrain(
    data: str,
    *,
    out: Path | None = None,
    recipe: str | None = None,
    config: Path | None = None,
    budget: str | None = None,
    plan: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    extend_to: int | None = None,
    init_from: Path | None = None,
    json: bool = False,
    settings: Settings,
) -> None:
    """Pretrain an encoder on images without labels.

    Any setting can be given as --section.field value; they are listed below.

    Parameters
    ----------
    data
        A folder (searched with all its subfolders), a .txt or .csv list of paths, an .npz file of arrays (FILE.npz or
        FILE.npz:test), or a data set's name: cifar10, fashion-mnist, scenes, each with :train or :test.
    out
        The run's folder, new or empty.
    recipe
        A named configuration (default: hjepa-small, unless --config is given).
    config
        A YAML file of settings, such as another run's config.yaml.
    budget
        The time that the run may take, such as 20min or 8h; the number of steps follows the pace of the machine.
    plan
        Print every derived value, the measured memory and time, and stop.
    resume
        Go on with the run in --out where it stopped.
    overwrite
        Replace the run in --out.
    extend_to
        With --resume: a new, larger number of steps; prints what that does to each schedule.
    init_from
        Start from weights: a run, an encoder.safetensors, or a released I-JEPA checkpoint.
    json
        Print one line of JSON at the end; everything else goes to standard error.
    """
    from hjepa.commands import plan as planning
    from hjepa.commands import pretrain as pretraining
    from hjepa.terminal import Terminal, new_console

    if plan:
        if resume or extend_to is not None or init_from is not None:
            raise UserError("--plan says what a new run would do: leave out --resume, --extend-to and --init-from")
        _print_plan(*planning.plan(data, recipe=recipe, config=config, budget=budget, options=settings), json=json)
        return
    if out is None:
        raise UserError("--out is missing: name a folder for the run, such as --out runs/first")
    terminal = Terminal(new_console(to_stderr=json))
    try:
        run = pretraining.pretrain(
            data,
            out=out,
            recipe=recipe,
            config=config,
            budget=budget,
            resume=resume,
            overwrite=overwrite,
            extend_to=extend_to,
            init_from=init_from,
            options=settings,
            callback=terminal,
            command=shlex.join(["hjepa", *sys.argv[1:]]),
        )
    finally:
        terminal.close()
    if not is_main_process():
        return
    if json:
        print(jsonlib.dumps(run.summary()))
        return
    verdict = str(run.verdict).replace("RUN", shlex.quote(str(run.path)))
    print("\nverdict    " + verdict.replace("pretrain DATA", shlex.join(["pretrain", data])))
    print(f"encoder    {run.path / 'encoder.safetensors'}\nreport     {run.report}")


@app.command
def evaluate(
    run: Path,
    *,
    train: str,
    test: str,
    protocols: str = "knn,linear",
    pooling: str = "avg",
    level: str = "last",
    max_train: int | None = None,
    max_test: int | None = None,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Probe a run's encoder on labelled images, beside a random-init encoder and raw pixels.

    Parameters
    ----------
    run
        A run's folder.
    train
        Labelled images to fit on: a folder with one subfolder per class, a .csv with columns path and label, an .npz
        file, cifar10:train, fashion-mnist:train, scenes:train ...
    test
        Labelled images to measure on, of the same classes.
    protocols
        knn, knn-whitened (after PCA whitening by the training images), linear, lowshot (10 labels per class, the mean
        of 10 draws), or several with commas between.
    pooling
        avg (mean over patches, the published one), last4, grid4, or several with commas between.
    level
        last (the tokens of the last block), a level's number (0 is the finest), or all: every level and the last
        block side by side, each with the same weight.
    max_train
        Use only so many training images, spread evenly.
    max_test
        Use only so many test images, spread evenly.
    seed
        Of the held-out split and the bootstrap.
    json
        Print the results as JSON.
    """
    from hjepa.commands import evaluate as evaluation
    from hjepa.evaluation import protocol
    from hjepa.terminal import new_console, print_table

    console = new_console(to_stderr=json)
    result = evaluation.evaluate(
        run,
        train=train,
        test=test,
        protocols=protocols,
        poolings=pooling,
        level=level,
        max_train=max_train,
        max_test=max_test,
        seed=seed,
        progress=lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True),
    )
    if json:
        print(jsonlib.dumps(result.to_json()))
        return
    console.print()
    print_table(console, protocol.table(result.results))
    print(f"\n{result.conclusion}")
    if result.harm:
        print(f"\n{result.harm}")
    if (run / "report.html").is_file():
        print(f"report: {run / 'report.html'}")


@app.command
def masks(
    *,
    grid: str = "14x14",
    steps: int = 200,
    batch: int = 256,
    seed: int = 0,
    json: bool = False,
    settings: Settings,
) -> None:
    """Show what a mask setting does to a grid: coverage of each patch, numbers of tokens.

    Any setting of the section masking can be given, such as --masking.target_scale 0.1,0.2.

    Parameters
    ----------
    grid
        Rows x columns of patches, such as 14x14.
    steps
        How many batches of masks are drawn.
    batch
        How many images are in a batch; with --masking.contexts each has several masks.
    seed
        Of the draws.
    json
        Print the statistics as JSON.
    """
    from hjepa.commands.masks import mask_statistics
    from hjepa.masking import draw

    statistics = mask_statistics(grid, options=settings, steps=steps, batch=batch, seed=seed)
    if json:
        print(jsonlib.dumps(statistics.to_json()))
        return
    print(draw(statistics))


@app.command
def doctor(*, json: bool = False) -> None:
    """Say what this machine can do: devices, number formats, threads, memory, versions, data sets.

    Parameters
    ----------
    json
        Print it as JSON.
    """
    from hjepa.commands import doctor as machine

    facts = machine.doctor()
    if json:
        print(jsonlib.dumps(facts))
        return
    for name, value in facts.items():
        print(f"{name:<24} {value}")


@app.command
def audit(*words: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Run any training script and learn whether its teacher is updated as it should be.

    hjepa audit [OPTIONS] SCRIPT [ARGUMENTS]; hjepa audit --help lists the options.
    """
    raise AssertionError("main() hands these words to hjepa.audit.command, which knows where the script begins")


@app.command
def report(run: Path) -> None:
    """Rebuild the page of a run.

    Parameters
    ----------
    run
        A run's folder.
    """
    from hjepa.report import write_report

    print(write_report(run))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 when done, 2 for anything the user can mend, 128 + n after signal n."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["audit"]:
        sys.exit(_audit(arguments[1:]))
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
    except BrokenPipeError:  # the reader (head, less) has gone
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
        raise UserError(f"unknown option {settings[0]}: hjepa {' '.join(words[:1])} --help lists them")
    if "settings" in ignored:
        bound.arguments["settings"] = settings
    from hjepa.runs.stopping import Stopped, exit_code_after, requeue_slurm_job

    try:
        command(*bound.args, **bound.kwargs)
    except Stopped as stopped:
        data, out = (str(bound.arguments.get(*name)) for name in (("data", "DATA"), ("out", "RUN")))
        again = shlex.join(["hjepa", "pretrain", data, "--out", out, "--resume"])
        _complain(f"{stopped}: saved; continue with {again}")
        requeue_slurm_job(stopped)
        return exit_code_after(stopped)
    if words[:1] == ["pretrain"] and {"--help", "-h"} & set(words):
        _print_settings()
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
    who = "hjepa" if is_main_process() else f"hjepa, process {rank()}"
    print(f"{who}: {text}", file=sys.stderr)


def _print_plan(resolved: Any, plan: Any, *, json: bool) -> None:
    from hjepa.config import dump

    if json:
        print(
            jsonlib.dumps(
                {
                    "config": resolved.config.model_dump(mode="json"),
                    "origin": resolved.origin,
                    "plan": plan.to_json(),
                }
            )
        )
        return
    print(dump(resolved))
    for name, value in plan.to_json().items():
        shown = "never" if value is None else f"{value:,}"
        print(f"{name.replace('_', ' '):<28} {shown}")


def _print_settings() -> None:
    from hjepa.config import describe

    print("Settings (--section.field value), with their defaults before the recipe:\n")
    for name, default, text in describe():
        print(f"  --{name:<30} {default:<22} {text}")


if __name__ == "__main__":
    main()
