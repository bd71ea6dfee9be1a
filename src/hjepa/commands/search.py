"""``hjepa search``: the images most similar to a query image."""

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hjepa.commands.embed import EmbedOptions, embed_device, run_path, write_embeddings
from hjepa.data.sources import open_source
from hjepa.deploy.approximate import nearest_by_index
from hjepa.deploy.collection import Collection, open_queries, option_named
from hjepa.deploy.contact_sheet import Picture, Pictures, Section, write_contact_sheet
from hjepa.deploy.embed.loop import Progress
from hjepa.deploy.embeddings import embedding_files, open_embeddings
from hjepa.deploy.encoders import open_encoder
from hjepa.deploy.similarity import nearest
from hjepa.errors import UserError
from hjepa.files import shown
from hjepa.runs.run import Run

EXACT_UP_TO = 2_000_000  # images; an exact search of so many reads 3 GB of vectors of 384 numbers


@dataclass(frozen=True)
class Match:
    """An image that was found."""

    path: str
    similarity: float  # cosine
    exact_copy: bool  # the same file content as the query
    index: int


@dataclass(frozen=True)
class SearchResult:
    """The matches of one query, best first."""

    query: str
    matches: list[Match]

    def to_json(self) -> dict[str, Any]:
        """Return the stable form of ``hjepa search --json``."""
        rows = [
            {"path": each.path, "similarity": round(each.similarity, 6), "exact_copy": each.exact_copy}
            for each in self.matches
        ]
        return {"query": self.query, "results": rows}


@dataclass(frozen=True)
class Search:
    """All results, and how they were found."""

    results: list[SearchResult]
    images: int
    exact: bool
    unreadable: int
    pictures: Pictures

    def to_json(self) -> dict[str, Any]:
        """Return the stable form of ``hjepa search --json``."""
        facts = {"images": self.images, "exact": self.exact, "unreadable": self.unreadable}
        return {"queries": [each.to_json() for each in self.results], **facts}

    def write_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page with the pictures."""
        sections = []
        for result in self.results:
            query = Picture(Pictures(None, "").pixels(0, result.query), "query", Path(result.query).name)
            found = [
                Picture(
                    self.pictures.pixels(each.index, each.path),
                    f"{each.similarity:.3f}{', exact copy' if each.exact_copy else ''}",
                    each.path,
                )
                for each in result.matches
            ]
            sections.append(Section(result.query, [query, *found]))
        write_contact_sheet(Path(path).expanduser(), f"Most similar of {self.images:,} images", sections)


def search(
    run: Run | str | os.PathLike[str],
    images: Any,
    query: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    top: int = 10,
    vectors: str | os.PathLike[str] | None = None,
    pooling: str | None = None,
    level: str | int | None = None,
    exact_up_to: int = EXACT_UP_TO,
    progress: Callable[[Progress], None] | None = None,
) -> Search:
    """Return the ``top`` images most similar to each query image, by cosine similarity.

    ``images`` is an embedding file, or images that are embedded first; ``vectors`` keeps their vectors for next time.
    The search is exact; beyond ``exact_up_to`` images, it is approximate and needs usearch. Raises UserError.
    """
    queries = [query] if isinstance(query, str | os.PathLike) else list(query)
    if top < 1:
        raise UserError(f"--top {top}: must be at least 1")
    if not queries:
        raise UserError("--query is missing: pass an image file")
    with ExitStack() as stack:
        collection = open_collection(
            run, images, vectors=vectors, pooling=pooling, level=level, progress=progress, stack=stack
        )
        source, digests = open_queries(queries, collection.encoder)
        wanted, known = collection.embed(source), collection.vectors
        exact = len(known) <= exact_up_to
        if exact:
            found = nearest(wanted, known, top)
        else:
            file, kept = collection.embeddings.file, vectors is not None or _is_file(images)
            stored = file.with_name(f"{file.name}.usearch") if kept and file.is_file() else None
            found = nearest_by_index(wanted, known, top, stored=stored)
        rows = collection.embeddings.images
        results = [
            SearchResult(
                shown(name),
                [
                    Match(rows[place].path, float(similarity), rows[place].content_hash == digest, int(place))
                    for similarity, place in zip(similarities, places, strict=True)
                ],
            )
            for name, digest, similarities, places in zip(queries, digests, *found, strict=True)
        ]
        unreadable = sum(bool(row.error) for row in rows)
        return Search(results, len(known), exact, unreadable, collection.pictures())


def open_collection(
    run: Run | str | os.PathLike[str],
    images: Any,
    *,
    vectors: str | os.PathLike[str] | None,
    pooling: str | None,
    level: str | int | None,
    progress: Callable[[Progress], None] | None,
    stack: ExitStack,
) -> Collection:
    """Return the images with their vectors: those of an embedding file, or embedded now, into ``vectors`` if given.

    A temporary file is removed when ``stack`` is closed.
    """
    device = embed_device()
    encoder = open_encoder(run_path(run), device)
    if _is_file(images):
        if vectors is not None or pooling is not None or level is not None:
            raise UserError(f"{shown(images)}: an embedding file; remove --vectors, --pooling and --level")
        return Collection(open_embeddings(images), encoder, device, None)
    out = (
        Path(vectors).expanduser()
        if vectors is not None
        else Path(stack.enter_context(tempfile.TemporaryDirectory()), "vectors.npy")
    )
    options = EmbedOptions(pooling=pooling, level="last" if level is None else level, progress=progress)
    source = open_source(images, encoder.channels, encoder.pages)
    try:
        write_embeddings(run, source, out, options, in_memory=vectors is None, encoder=encoder)
    except UserError as error:
        raise option_named(error, "--vectors") from None
    return Collection(open_embeddings(out), encoder, device, source)


def _is_file(images: Any) -> bool:
    return isinstance(images, str | os.PathLike) and bool(embedding_files(images))
