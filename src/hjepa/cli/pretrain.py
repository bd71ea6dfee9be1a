"""``hjepa pretrain`` on the command line."""

import json as jsonlib
import shlex
import sys
from pathlib import Path
from typing import Any

from hjepa.cli.root import Settings, app
from hjepa.errors import UserError
from hjepa.processes import is_main_process


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
        A folder (searched recursively), a .txt, .csv or .parquet list of paths (FILE.csv:COLUMN if the column is not
        called path), a .zip or .tar of images, a .npy or .npz file of arrays (FILE.npz or FILE.npz:test), the name of a
        dataset (cifar10, cifar100, stl10, svhn, mnist, kmnist, fashion-mnist or scenes, optionally with :train or
        :test), hf:NAME or hf:FOLDER for datasets of Hugging Face, or wds:shard-{000..099}.tar for WebDataset.
    out
        Folder of the run. It must be new or empty, unless --resume or --overwrite is given.
    recipe
        Name of a predefined configuration. By default hjepa-tiny on a CPU and hjepa-small on a GPU, the next larger one
        for a long --budget, and ijepa-small for a length in steps or epochs. None with --config.
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
        shown = "never" if value is None else value if isinstance(value, str) else f"{value:,}"
        print(f"{name.replace('_', ' '):<28} {shown}")


def print_settings() -> None:
    """Print every setting with its default, below ``hjepa pretrain --help``."""
    from hjepa.config import describe

    print("Settings (--section.field value) with their defaults, which recipes override:\n")
    for name, default, text in describe():
        print(f"  --{name:<30} {default:<22} {text}")
