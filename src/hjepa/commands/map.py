"""``hjepa map``: a page on which similar images lie near each other."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hjepa.commands.search import open_collection
from hjepa.deploy.embed.loop import Progress
from hjepa.deploy.map.atlas import build_atlas
from hjepa.deploy.map.layout import Method, choose_method, places
from hjepa.deploy.map.page import write_map_page
from hjepa.deploy.similarity import nearest
from hjepa.errors import UserError
from hjepa.runs.run import Run

MAX_IMAGES = 10_000  # that a browser draws fluidly
NEIGHBOURS = 12
SEED = 0


@dataclass(frozen=True)
class Map:
    """What was drawn."""

    file: Path
    images: int
    of: int  # images of the collection that can be read
    unreadable: int
    method: Method


def map_images(
    run: Run | str | os.PathLike[str],
    images: Any,
    html: str | os.PathLike[str],
    *,
    method: str = "auto",
    max_images: int = MAX_IMAGES,
    vectors: str | os.PathLike[str] | None = None,
    pooling: str | None = None,
    level: str | int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Map:
    """Write a page with a map of images; if there are more than ``max_images``, an evenly spaced subset is drawn.

    ``images`` is an embedding file, or images that are embedded first; ``vectors`` keeps their vectors for next time.
    ``method`` is ``umap`` (needs umap-learn), ``pca``, or ``auto``. Raises UserError in one line.
    """
    if max_images < 1:
        raise UserError(f"--max-images {max_images}: must be at least 1")
    choose_method(method, max_images)  # what cannot work is refused before anything is embedded
    with ExitStack() as stack:
        collection = open_collection(
            run, images, vectors=vectors, pooling=pooling, level=level, progress=progress, stack=stack
        )
        rows = collection.embeddings.images
        readable = np.flatnonzero([not row.error for row in rows])
        if not len(readable):
            raise UserError(f"{collection.embeddings.file}: holds no image that could be read")
        shown = readable[np.arange(min(max_images, len(readable))) * len(readable) // min(max_images, len(readable))]
        known = np.array(collection.vectors[shown])
        chosen = choose_method(method, len(shown))
        pictures = collection.pictures()
        write_map_page(
            Path(html).expanduser(),
            title=f"Map of {len(shown):,} images",
            caption=_caption(chosen, len(shown), len(readable), collection.encoder.name),
            names=[rows[index].path for index in shown],
            places=places(known, chosen, seed=SEED),
            neighbours=_neighbours(known),
            atlas=build_atlas((pictures.pixels(int(index), rows[index].path) for index in shown), len(shown)),
        )
    return Map(Path(html).expanduser(), len(shown), len(readable), len(rows) - len(readable), chosen)


def _neighbours(vectors: np.ndarray) -> np.ndarray:
    """Return the nearest images of each image, itself left out: indices [n, k]."""
    found = nearest(vectors, vectors, min(NEIGHBOURS + 1, len(vectors))).indices
    others = [[index for index in row if index != own][:NEIGHBOURS] for own, row in enumerate(found.tolist())]
    return np.array(others, dtype=np.int64).reshape(len(vectors), -1)


def _caption(method: Method, shown: int, readable: int, encoder: str) -> str:
    how = "UMAP of their features" if method == "umap" else "the two leading principal components of their features"
    some = f" {shown:,} of {readable:,} images, evenly spread." if shown < readable else ""
    return f"Images that the encoder {encoder} finds similar lie near each other ({how}).{some}"
