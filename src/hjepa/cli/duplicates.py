"""``hjepa duplicates`` on the command line."""

import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hjepa.cli.collection import CollectionOptions
from hjepa.cli.root import app

if TYPE_CHECKING:
    from hjepa.commands.duplicates import Duplicates

GROUPS_SHOWN = 20


@app.command
def duplicates(
    run: str,
    images: str,
    *,
    threshold: str = "auto",
    pixels: bool = True,
    list_file: Annotated[Path | None, Parameter(name="--list")] = None,
    html: Path | None = None,
    collection: CollectionOptions | None = None,
    json: bool = False,
) -> None:
    """Find copies of images: byte for byte, re-encoded, resized or cropped by a few per cent. Nothing is deleted.

    Parameters
    ----------
    run
        Folder of a run; or any network of timm, as for hjepa embed.
    images
        An embedding file written by hjepa embed with the same encoder, or images, which are embedded first.
    threshold
        Cosine similarity of vectors from which the pixels of two images are compared. auto makes copies of up to 128 of
        the images and takes the similarity that 99 % of the copies of each kind have to their originals.
    pixels
        Compare the pixels of similar images. With --no-pixels their vectors decide alone, by the --threshold you set.
    list_file
        Write a .csv file that says of each image in a group whether to keep or to drop it.
    html
        Write a page with the pictures of each group.
    json
        Print the results as JSON.
    """
    from hjepa.cli.progress import EmbedProgress
    from hjepa.commands import duplicates as finding
    from hjepa.terminal import new_console

    console = new_console(to_stderr=json)
    shown = EmbedProgress(console)
    try:
        found = finding.duplicates(
            run,
            images,
            threshold=_number(threshold),
            pixels=pixels,
            **asdict(collection or CollectionOptions()),
            progress=shown,
            notice=lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True),
        )
    finally:
        shown.close()
    if list_file is not None:
        found.write_list(list_file)
    if html is not None:
        found.write_html(html)
    if json:
        print(jsonlib.dumps(found.to_json()))
        return
    for line in _in_words(found, several=list_file is None):
        print(line)
    if list_file is not None:
        print(f"list       {list_file}: what to keep and what to drop; nothing is deleted")
    if html is not None:
        print(f"pictures   {html}")


def _number(threshold: str) -> float | None:
    from hjepa.errors import UserError

    if threshold == "auto":
        return None
    try:
        return float(threshold)
    except ValueError:
        raise UserError(f"--threshold {threshold}: use auto, or a cosine similarity such as 0.99") from None


def _in_words(found: "Duplicates", *, several: bool) -> list[str]:
    """Return the lines that are printed; ``several``: name the option that lists all groups if they are many."""
    from hjepa.commands.duplicates import reason

    lines = []
    for number, group in enumerate(found.groups[:GROUPS_SHOWN], start=1):
        lines.append(f"group {number}: keep {found.paths[group.keep]}")
        for copy in group.copies:
            lines.append(f"    {copy.similarity:.4f}  {reason(copy):<14}  {found.paths[copy.index]}")
    if len(found.groups) > GROUPS_SHOWN:
        how = ": use --list FILE.csv" if several else ""
        lines.append(f"... and {len(found.groups) - GROUPS_SHOWN:,} more groups{how}")
    lines += [""] if lines else []
    left_out = f"; {found.unreadable:,} unreadable" if found.unreadable else ""
    groups, images = len(found.groups), len(found.paths)
    lines.append(f"duplicates {groups:,} groups among {images:,} images; {found.dropped:,} could be dropped{left_out}")
    known = found.calibration
    if known is None:
        lines.append(f"threshold  {found.threshold:.4f} of vectors alone; pixels were not compared")
        return lines
    parts = ", ".join(f"{kind} {part:.1%}" for kind, part in known.found.items())
    lines.append(f"threshold  {found.threshold:.4f} for vectors; of those pairs, pixels decide")
    lines.append(
        f"calibrated on copies made of {known.images:,} of these images; found: {parts}; "
        f"{known.false_pairs:,} false pairs with {known.others:,} other images"
    )
    return lines
