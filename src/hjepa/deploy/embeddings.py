"""Embedding files as they are read back: one file, or a folder of parts."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hjepa.deploy.embed.formats import FORMATS
from hjepa.deploy.embed.plan import VERSION, Plan
from hjepa.deploy.embed.store import Row
from hjepa.errors import UserError
from hjepa.files import shown


@dataclass(frozen=True)
class Embeddings:
    """The vectors of a set of images, with what is known of each image, in the order of the images."""

    file: Path
    metadata: dict[str, Any] = field(repr=False)
    flat: np.ndarray = field(repr=False)  # float32 [n, floats per image]; of a .npy file mapped, not loaded
    images: list[Row] = field(repr=False)  # one for each image, that of its first level

    def __len__(self) -> int:
        return len(self.images)

    @property
    def levels(self) -> dict[str, np.ndarray]:
        """Return the vectors of each level: [n, F], or [n, GH, GW, D] for patches; NaN for unreadable images."""
        found, start = {}, 0
        for level, shape in Plan(self.metadata).shapes.items():
            end = start + int(np.prod(shape))
            found[level] = self.flat[:, start:end].reshape(len(self.flat), *shape)
            start = end
        return found

    @property
    def vectors(self) -> np.ndarray:
        """Return the vectors of the only level; raises UserError if there are several."""
        levels = self.levels
        if len(levels) > 1:
            raise UserError(f"{shown(self.file)} holds the levels {', '.join(levels)}: choose one with .levels[NAME]")
        return next(iter(levels.values()))

    @property
    def paths(self) -> list[str]:
        """Return the path of each image, or ``image 17`` where images are not files."""
        return [row.path for row in self.images]

    @property
    def content_hashes(self) -> list[str]:
        """Return the SHA-256 of each file, or of its pixels where images are not files."""
        return [row.content_hash for row in self.images]

    @property
    def errors(self) -> list[str]:
        """Return why an image could not be read; empty for all others."""
        return [row.error for row in self.images]


def part_files(folder: Path) -> list[Path]:
    """Return the part files of a folder in order; empty if there are none."""
    return sorted(path for path in folder.glob("part-*-of-*.*") if path.suffix in FORMATS)


def embedding_files(path: str | os.PathLike[str]) -> list[Path]:
    """Return the embedding file or its parts; empty if this is something else, such as a folder of images."""
    file = Path(path).expanduser()
    if file.is_dir():
        return [part for part in part_files(file) if FORMATS[part.suffix].known_metadata(part) is not None]
    ours = file.suffix.lower() in FORMATS and FORMATS[file.suffix.lower()].known_metadata(file) is not None
    return [file] if ours else []


def open_embeddings(path: str | os.PathLike[str]) -> Embeddings:
    """Open an embedding file, or a folder of parts; raises UserError if it is none or not complete."""
    name, files = shown(path), embedding_files(path)
    if not files:
        raise UserError(f"{name}: not an embedding file; write one with hjepa embed RUN IMAGES --out FILE.npy")
    parts = [read_part(file, name) for file in files]
    first = parts[0].metadata
    wanted = list(range(first["part"]["of"]))
    if [each.metadata["part"]["number"] for each in parts] != wanted:
        raise UserError(f"{name}: {len(parts)} of {len(wanted)} parts are there; run the same hjepa embed again")
    for each in parts[1:]:
        for key in ("model", "images", "shapes", "pooling"):
            if _essence(each.metadata[key]) != _essence(first[key]):
                raise UserError(f"{name}: its parts differ in {key}; embed the images again into a new folder")
    if len(parts) == 1:
        return parts[0]
    flat = np.concatenate([each.flat for each in parts])
    return Embeddings(Path(path), first, flat, [row for each in parts for row in each.images])


def read_part(file: Path, name: str) -> Embeddings:
    """Open one file; ``name`` is what the user called it. Raises UserError if it is not complete."""
    form = FORMATS[file.suffix.lower()]
    metadata = form.known_metadata(file) or {}
    if metadata["version"] > VERSION:
        raise UserError(f"{name}: written by a newer hjepa ({metadata['hjepa']}); update this one")
    if not metadata["complete"]:
        raise UserError(f"{name}: not complete; run the same hjepa embed again, it continues where it stopped")
    plan = Plan(metadata)
    flat, rows = form.read(file, plan)
    if len(flat) * len(plan.levels) != len(rows) or len(flat) != plan.part.count:
        raise UserError(f"{name}: {len(flat):,} images of {plan.part.count:,}; damaged, embed the images again")
    return Embeddings(file, metadata, flat, rows[:: len(plan.levels)])


def _essence(value: Any) -> Any:
    """Return a fact without the names that may differ between machines."""
    return value.get("fingerprint", value) if isinstance(value, dict) else value
