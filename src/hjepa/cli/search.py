"""``hjepa search`` on the command line."""

import json as jsonlib
from dataclasses import asdict
from pathlib import Path

from hjepa.cli.collection import CollectionOptions
from hjepa.cli.root import app


@app.command
def search(
    run: str,
    images: str,
    *,
    query: list[Path],
    top: int = 10,
    exact_up_to: int = 2_000_000,
    html: Path | None = None,
    collection: CollectionOptions | None = None,
    json: bool = False,
) -> None:
    """Find the images most similar to a query image, by the cosine similarity of their vectors.

    Parameters
    ----------
    run
        Folder of a run; or any network of timm, as for hjepa embed.
    images
        An embedding file written by hjepa embed with the same encoder, or images, which are embedded first.
    query
        Image file to search for. The option may be repeated.
    top
        Number of images to find.
    exact_up_to
        In collections of more images than this, search approximately with usearch (pip install 'hjepa[search]').
    html
        Write a page with the pictures.
    json
        Print the results as JSON.
    """
    from hjepa.cli.progress import EmbedProgress
    from hjepa.commands import search as searching
    from hjepa.terminal import new_console, print_table

    console = new_console(to_stderr=json)
    shown = EmbedProgress(console)
    try:
        found = searching.search(
            run,
            images,
            query,
            top=top,
            **asdict(collection or CollectionOptions()),
            exact_up_to=exact_up_to,
            progress=shown,
        )
    finally:
        shown.close()
    if html is not None:
        found.write_html(html)
    if json:
        print(jsonlib.dumps(found.to_json()))
        return
    for result in found.results:
        console.print(f"query {result.query}", markup=False, highlight=False, soft_wrap=True)
        rows = [
            (str(rank), f"{match.similarity:.4f}", match.path, "exact copy" if match.exact_copy else "")
            for rank, match in enumerate(result.matches, start=1)
        ]
        print_table(console, [("rank", "similarity", "path", ""), *rows])
    how = "exact" if found.exact else "approximate (usearch)"
    left_out = f", {found.unreadable:,} unreadable images left out" if found.unreadable else ""
    print(f"\nsearched   {found.images:,} images, {how}{left_out}")
    if html is not None:
        print(f"pictures   {html}")
