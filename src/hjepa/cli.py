"""The command line: parses arguments, calls the commands, prints their results. Nothing is computed here.

Heavy modules are imported inside the commands, so that ``hjepa --help`` responds at once.
"""

import json as jsonlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from hjepa.errors import UserError
from hjepa.files import shown
from hjepa.processes import is_main_process, rank
from hjepa.usage import usage_error
from hjepa.version import __version__

app = App(
    name="hjepa",
    help="Pretrain image encoders on your own unlabelled images, and find out whether it worked.",
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
    """Pretrain an encoder on unlabelled images.

    Every setting can be given as --section.field value. All settings are listed below.

    Parameters
    ----------
    data
        A folder (searched recursively), a .txt or .csv list of paths, an .npz file of arrays (FILE.npz or
        FILE.npz:test), or the name of a dataset: cifar10, fashion-mnist or scenes, optionally with :train or :test.
    out
        Folder of the run. It must be new or empty, unless --resume or --overwrite is given.
    recipe
        Name of a predefined configuration (default: hjepa-small, unless --config is given).
    config
        YAML file with settings, such as the config.yaml of another run.
    budget
        Wall-clock time that the run may take, such as 20min or 8h. The number of steps is chosen to fit.
    plan
        Dry run: print the resolved configuration, memory and time estimates, and exit.
    resume
        Resume the run in --out from its last checkpoint.
    overwrite
        Replace the run in --out.
    extend_to
        Use with --resume: a new, larger number of steps. Prints how each schedule changes.
    init_from
        Initialise weights from a run, an encoder.safetensors, a released I-JEPA checkpoint, a ViT of timm (.pth,
        .safetensors or timm:NAME, which timm downloads), or a Hugging Face folder of an I-JEPA or ViT model.
    json
        Print the result as one line of JSON; all other output goes to standard error.
    """
    from hjepa.commands import plan as planning
    from hjepa.commands import pretrain as pretraining
    from hjepa.terminal import Terminal, new_console

    if plan:
        if resume or extend_to is not None or init_from is not None:
            raise UserError("--plan describes a new run: remove --resume, --extend-to and --init-from")
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
    """Probe the encoder of a run on labelled images, with a random-init encoder and raw pixels as baselines.

    Parameters
    ----------
    run
        Folder of a run.
    train
        Labelled training images: a folder with one subfolder per class, a .csv file with the columns path and label,
        an .npz file, or a dataset such as cifar10:train, fashion-mnist:train or scenes:train.
    test
        Labelled test images of the same classes.
    protocols
        Comma-separated list: knn, knn-whitened (PCA whitening fitted on the training images), linear (linear probe),
        lowshot (10-shot linear probe, averaged over 10 random subsets).
    pooling
        Comma-separated list: avg (mean over all patch tokens, as published), last4 (the means of the last four blocks,
        concatenated), grid4 (4x4 average-pooled tokens, concatenated).
    level
        Which features to probe: last (tokens of the last block), the number of a level (0 is the finest), or all (all
        levels and the last block, L2-normalised and concatenated).
    max_train
        Maximum number of training images (evenly subsampled).
    max_test
        Maximum number of test images (evenly subsampled).
    seed
        Random seed for the validation split and the bootstrap.
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
    """Show how a mask sampler covers a patch grid, and how many tokens it yields.

    Every setting of the section masking can be given, such as --masking.target_scale 0.1,0.2.

    Parameters
    ----------
    grid
        Patch grid as rows x columns, such as 14x14.
    steps
        Number of batches to sample.
    batch
        Number of images per batch. With --masking.contexts, each image has several masks.
    seed
        Random seed.
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
    """Report what this machine offers: devices, precision, threads, memory, package versions and datasets.

    Parameters
    ----------
    json
        Print the report as JSON.
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
    """Run a training script and check whether its EMA teacher is updated correctly.

    Usage: hjepa audit [OPTIONS] SCRIPT [ARGUMENTS]. Run hjepa audit --help for the options.
    """
    raise AssertionError("main() hands these words to hjepa.audit.command, which knows where the script begins")


@app.command
def report(run: Path) -> None:
    """Rebuild the HTML report of a run.

    Parameters
    ----------
    run
        Folder of a run.
    """
    from hjepa.report import write_report

    print(write_report(run))


def _let_idle_threads_sleep() -> None:
    """Have OpenMP's threads sleep while they wait for each other, unless the environment says otherwise.

    By default they spin, and beside another busy process the one that is waited for does not get the processor: two
    threads then take several times as long as one (benchmarks/results/threads.md). OpenMP reads the variable when torch
    is loaded, so not later than here, and nothing is set in a program that only imports hjepa.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 on success, 2 for user errors, 128 + n after signal n."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["audit"]:
        sys.exit(_audit(arguments[1:]))
    _let_idle_threads_sleep()
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
    who = "hjepa" if is_main_process() else f"hjepa, rank {rank()}"
    print(f"{who}: {shown(text)}", file=sys.stderr)  # it may hold a file name that is not UTF-8


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

    print("Settings (--section.field value) with their defaults, which recipes override:\n")
    for name, default, text in describe():
        print(f"  --{name:<30} {default:<22} {text}")


if __name__ == "__main__":
    main()
