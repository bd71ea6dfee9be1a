"""``hjepa map`` on the command line."""

import json as jsonlib
from dataclasses import asdict
from pathlib import Path

from hjepa.cli.collection import CollectionOptions
from hjepa.cli.root import app


@app.command
def map(
    run: str,
    images: str,
    *,
    html: Path,
    method: str = "auto",
    max_images: int = 10_000,
    collection: CollectionOptions | None = None,
    json: bool = False,
) -> None:
    """Write a page with a map of a collection, on which similar images lie near each other.

    The page is one file that opens offline: zoom, hover over an image to enlarge it, click it for its neighbours.

    Parameters
    ----------
    run
        Folder of a run; or any network of timm, as for hjepa embed.
    images
        An embedding file written by hjepa embed with the same encoder, or images, which are embedded first.
    html
        File of the page.
    method
        umap (needs pip install 'hjepa[map]'), pca, or auto: UMAP if it is installed.
    max_images
        Largest number of images to draw; if there are more, an evenly spaced subset is drawn.
    json
        Print the summary as one line of JSON.
    """
    from hjepa.cli.progress import EmbedProgress
    from hjepa.commands.map import map_images
    from hjepa.terminal import new_console

    shown = EmbedProgress(new_console(to_stderr=json))
    try:
        drawn = map_images(
            run,
            images,
            html,
            method=method,
            max_images=max_images,
            **asdict(collection or CollectionOptions()),
            progress=shown,
        )
    finally:
        shown.close()
    if json:
        facts = {"file": str(drawn.file), "images": drawn.images, "of": drawn.of, "unreadable": drawn.unreadable}
        print(jsonlib.dumps(facts | {"method": drawn.method}))
        return
    left_out = f", {drawn.unreadable:,} unreadable images left out" if drawn.unreadable else ""
    of = f" of {drawn.of:,}" if drawn.images < drawn.of else ""
    print(f"map        {drawn.images:,}{of} images by {drawn.method.upper()}{left_out}\npage       {drawn.file}")
