"""``hjepa export`` on the command line."""

import json as jsonlib
import shlex
import sys
from pathlib import Path

from hjepa.cli.root import app


@app.command
def export(
    run: Path,
    *,
    to: str,
    out: Path,
    images: str | None = None,
    level: str = "last",
    license: str = "unknown",
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Write the encoder of a run for another library, read it back with that library and compare the features.

    Each export is a folder with a model card (README.md). The largest difference of features is printed.

    Parameters
    ----------
    run
        Folder of a run.
    to
        Comma-separated list: timm (a folder for timm.create_model), transformers (an IJepaModel with its image
        processor), onnx (any number and size of images), torch (a program of torch.export, any number and size of
        images), safetensors (the weights alone).
    out
        Folder of the export. With several formats it has one subfolder each.
    images
        Images to compare on: a folder, a list, or the name of a dataset. By default these are images the run was
        trained on, or else synthetic scenes.
    level
        Which features an onnx or torch export returns: last (tokens of the last block), or the number of a level (0 is
        the finest).
    license
        Licence of the weights for the model card, as an identifier of the Hugging Face hub such as apache-2.0.
    overwrite
        Replace an earlier export. Files that an export did not write, or that were changed since, are never touched.
    json
        Print the result as JSON.
    """
    from hjepa.commands.export import export as write
    from hjepa.deploy.export.comparison import CLOSE
    from hjepa.terminal import new_console, print_table

    console = new_console(to_stderr=json)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    result = write(
        run,
        to=to,
        out=out,
        images=images,
        level=level,
        license=license,
        overwrite=overwrite,
        command=shlex.join(["hjepa", *sys.argv[1:]]),
        progress=say,
    )
    if json:
        print(jsonlib.dumps(result.to_json()))
        return
    rows = [["format", "folder", "read back with", "largest difference"]]
    rows += [
        [each.to, str(each.folder), each.comparison.reader, f"{each.comparison.largest:.1e}"] for each in result.exports
    ]
    console.print()
    print_table(console, rows)
    for each in result.exports:
        if each.comparison.largest > CLOSE:
            print(f"\n{each.to}: the difference is above {CLOSE:g}; see README.md in {each.folder}")
        if (pixels := each.comparison.pixels) is not None:
            print(
                f"\n{each.to}: with its own preprocessing of image files, pixels differ by up to {pixels.largest:.4f} "
                f"of 1 and pooled features by up to {pixels.pooled:.1e} (standard deviation {pixels.pooled_scale:.1e})."
            )
