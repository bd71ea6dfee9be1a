"""``hjepa check`` on the command line."""

import contextlib
import json as jsonlib
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from hjepa.cli.root import Settings, app

# What Pillow's modes are called.
WORDS = {
    "1": "black and white", "L": "grey", "LA": "grey with transparency", "P": "palette", "PA": "palette",
    "RGB": "colour", "RGBA": "colour with transparency", "CMYK": "CMYK", "YCbCr": "YCbCr", "LAB": "CIELAB",
    "I": "grey", "I;16": "grey", "I;16B": "grey", "I;16L": "grey", "F": "grey, float",
}  # fmt: skip


@app.command
def check(
    data: str,
    *,
    list_file: Annotated[Path | None, Parameter(name="--list")] = None,
    strict: bool = False,
    recipe: str | None = None,
    workers: int | None = None,
    json: bool = False,
    settings: Settings,
) -> None:
    """Look at every image of DATA before training: what is there, what a run does with it, and what is wrong.

    Settings such as --data.channels 4 or --data.image_size 96 can be given as for hjepa pretrain.

    Parameters
    ----------
    data
        As for hjepa pretrain: a folder, a list, an archive, a file of arrays or the name of a dataset.
    list_file
        Write the images with findings to this .csv file: path, problem and detail.
    strict
        Exit with code 1 if something is wrong: images that cannot be decoded, far too small ones, identical copies,
        bands that cannot be mixed, or folders that look like splits.
    recipe
        Recipe whose image and patch sizes are shown.
    workers
        Number of processes (default: one for each core).
    json
        Print the result as JSON.
    """
    from hjepa.commands.check import check as look

    with _progress() as progress:
        result = look(data, recipe=recipe, options=settings, list_file=list_file, workers=workers, progress=progress)
    if json:
        print(jsonlib.dumps(result.to_json()))
    else:
        print("\n".join(_screen(result, data, list_file)))
    if strict and result.wrong:
        sys.exit(1)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal, on standard error, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("images"), MofNCompleteColumn(), BarColumn(bar_width=24), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _screen(result: Any, data: str, list_file: Path | None) -> list[str]:
    """Return what is printed: one screen."""
    facts = result.to_json()
    lines = [f"data       {facts['source']}: {_images(facts['images'])}, {_bytes(facts['bytes'])}"]
    for count, kind, what in result.kinds[:8]:
        lines.append(f"           {count:>9,}  {_kind(kind)}: {what}")
    if len(result.kinds) > 8:
        rest = sum(count for count, _, _ in result.kinds[8:])
        lines.append(f"           {rest:>9,}  of {len(result.kinds) - 8} other kinds: see --json")
    if facts["width"]:
        lines.append(f"sizes      {_sizes(facts['width'], facts['height'], facts['aspect_ratio'])}")
    if facts["oriented"]:
        lines.append(f"rotated    {_images(facts['oriented'])}: by an orientation flag, which is applied")
    lines += _classes(facts["classes"])
    lines += _statistics(facts["statistics"])
    lines += _run(facts["run"], result.resolved)
    lines += [f"note       {text}" for text in facts["notices"]]
    for finding in sorted(result.findings, key=lambda each: not each.wrong):
        what = f"{_images(len(finding.images))}: {finding.text}" if finding.images else finding.text
        lines.append(f"{'WRONG' if finding.wrong else 'note':<10} {what}")
        lines += [f"             {_example(result, finding, index)}" for index in list(finding.images)[:2]]
    if list_file is not None:
        lines.append(f"list       {list_file}")
    elif any(finding.images for finding in result.findings):
        lines.append(f"all files  hjepa check {shlex.quote(data)} --list affected.csv")
    lines.append("result     something is wrong" if result.wrong else "result     nothing is wrong")
    return lines


def _kind(kind: Any) -> str:
    """Return a kind of images in words: ``PNG, grey of 16 bits``, ``TIFF, 13 bands of uint16``."""
    if kind.mode not in WORDS:  # of an array, or of a file of many bands
        return f"{kind.format}, {kind.bands} {'band' if kind.bands == 1 else 'bands'} of {kind.mode}"
    return f"{kind.format}, {WORDS[kind.mode]}" + ("" if kind.mode == "1" else f" of {kind.bits} bits")


def _sizes(width: dict[str, Any], height: dict[str, Any], ratio: dict[str, Any]) -> str:
    """Return the sizes of the images, width first; smallest and largest are those of each side by itself."""
    smallest, largest = (f"{width[each]}x{height[each]}" for each in ("min", "max"))
    if smallest == largest:
        return f"all {smallest}"
    median = f"{width['median']}x{height['median']}"
    return (
        f"{smallest} to {largest}, median {median} (width x height); width / height {ratio['min']:.2f} to "
        f"{ratio['max']:.2f}"
    )


def _example(result: Any, finding: Any, index: int) -> str:
    name, detail = result.name(index), finding.images[index]
    return f"{name} ({detail})" if detail else str(name)


def _images(count: int) -> str:
    return f"{count:,} {'image' if count == 1 else 'images'}"


def _classes(classes: dict[str, int]) -> list[str]:
    if not classes:
        return ["labels     none"]
    shown = ", ".join(f"{name} ({count:,})" for name, count in list(classes.items())[:8])
    more = ", ..." if len(classes) > 8 else ""
    number = f"{len(classes):,} {'class' if len(classes) == 1 else 'classes'}"
    return [f"labels     {number}: {shown}{more}"]


def _statistics(statistics: dict[str, Any]) -> list[str]:
    lines = []
    if "mean" in statistics:
        mean, std = (", ".join(f"{value:.3f}" for value in statistics[name]) for name in ("mean", "std"))
        lines.append(f"channels   mean {mean}; standard deviation {std}")
    if "values" in statistics:
        values = statistics["values"]
        lines.append(f"values     {values['min']:g} to {values['max']:g} in images of more than 8 bits")
    return lines


def _run(run: dict[str, Any] | None, resolved: Any) -> list[str]:
    if run is None:
        return ["run        would refuse these images"]
    why = {name: text.removeprefix("derived: ") for name, text in run["reasons"].items()}
    height, width = run["image_size"]
    channels = f"{run['channels']} {'channel' if run['channels'] == 1 else 'channels'}"
    return [
        f"run        {channels}, {height}x{width} pixels ({why['data.image_size']}), patches of "
        f"{run['patch_size']} pixels ({why['model.patch_size']})"
    ]


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
