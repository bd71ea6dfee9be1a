"""``hjepa embed`` on the command line."""

import json as jsonlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa.cli.root import app
from hjepa.processes import rank, world_size

if TYPE_CHECKING:
    from hjepa.commands.embed import Written


@app.command
def embed(
    run: str,
    images: str,
    *,
    out: Path,
    pooling: str | None = None,
    level: str = "last",
    network: str = "target",
    precision: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    strict: bool = False,
    json: bool = False,
) -> None:
    """Write the vectors of images to a file.

    After a kill, run the same command again: it continues where it stopped. Under torchrun or accelerate launch, each
    process writes its part of the images into the folder --out.

    Parameters
    ----------
    run
        Folder of a run; or any network of timm: a folder with config.json and model.safetensors, or timm:NAME, such as
        timm:vit_small_patch16_224, which timm downloads.
    images
        Anything that hjepa pretrain takes as DATA: a folder, a list, an archive, an array, or the name of a dataset.
    out
        File to write: .npy (an array that can be memory-mapped, with its rows in FILE.npy.rows.csv and the rest in
        FILE.npy.json), .parquet (path, level, vector, content_hash, error) or .csv.
    pooling
        avg (mean over all patch tokens, the default for a run), last4 (the means of the last four blocks,
        concatenated), grid4 (4x4 average-pooled tokens, concatenated), patches (one vector per patch), or, for a timm
        model, own (as the model pools its features itself, the default).
    level
        last (tokens of the last block), the number of a level (0 is the finest), or all (one row per image and level).
    network
        Encoder of the run: target, or context (from the last checkpoint).
    precision
        auto, float32, bf16 or fp16. The vectors are always stored as float32.
    batch_size
        Number of images per forward pass (default: 64 on a CPU, 256 on a GPU).
    workers
        Number of threads that read images (default: one per core, at most 16).
    overwrite
        Replace an embedding file of other images, of another model, or made in another way.
    strict
        Exit with code 1 if images could not be read.
    json
        Print the summary as one line of JSON.
    """
    from hjepa.cli.progress import EmbedProgress
    from hjepa.commands import embed as embedding
    from hjepa.terminal import new_console

    shown = EmbedProgress(new_console(to_stderr=json))
    options = embedding.EmbedOptions(pooling, level, network, precision, batch_size, workers, overwrite, shown)  # type: ignore[arg-type]
    try:
        written = embedding.write_embeddings(run, images, out, options)
    except KeyboardInterrupt:
        shown.close()
        print("hjepa: interrupted; run the same command again to continue", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        shown.close()
    summary = summarise(written)
    if json:
        print(jsonlib.dumps(summary))
    else:
        for line in in_words(written, summary):
            print(line)
    if strict and written.unreadable:
        raise SystemExit(1)


def summarise(written: "Written") -> dict[str, Any]:
    """Return the stable form of ``hjepa embed --json``."""
    facts, progress = written.plan.metadata, written.progress
    return {
        "file": str(written.file),
        "images": facts["part"]["count"],
        "shapes": facts["shapes"],
        "pooling": facts["pooling"],
        "model": facts["model"]["fingerprint"],
        "precision": facts["precision"],
        "embedded": 0 if progress is None else progress.done - progress.resumed,
        "images_per_second": None if progress is None else round(progress.images_per_second, 1),
        "unreadable": [{"path": row.path, "error": row.error} for row in written.unreadable],
    }


def in_words(written: "Written", summary: dict[str, Any]) -> list[str]:
    """Return the lines printed at the end."""
    from hjepa.files import shown

    who = "" if world_size() == 1 else f"rank {rank()}: "
    shapes = {level: "x".join(map(str, shape)) for level, shape in summary["shapes"].items()}
    each = "; ".join(f"level {level}: {shape}" for level, shape in shapes.items())
    lines = [f"{who}vectors    {shown(written.file)}: {summary['images']:,} images ({summary['pooling']}; {each})"]
    if written.progress is None:
        lines.append(f"{who}complete already: nothing was embedded")
    else:
        resumed = f", {written.progress.resumed:,} were there already" if written.progress.resumed else ""
        speed = f"{summary['images_per_second']:,.1f} images/s in {summary['precision']}"
        lines.append(f"{who}embedded   {summary['embedded']:,} images at {speed}{resumed}")
    if written.unreadable:
        first = "; ".join(f"{row.path} ({row.error})" for row in written.unreadable[:3])
        more = "; ..." if len(written.unreadable) > 3 else ""
        count = f"{len(written.unreadable):,} of {summary['images']:,}"
        lines.append(f"{who}unreadable {count} images, whose vectors are NaN: {first}{more}")
    return lines
