"""What an embedding file will hold, decided before the first image is read, and stored with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hjepa.data.sources import ImageSource
from hjepa.deploy.encoders import OpenedEncoder
from hjepa.errors import UserError
from hjepa.version import __version__

FORMAT = "hjepa-embeddings"
VERSION = 1
# Facts that may differ between an interrupted command and the one that continues it.
NAMES_ONLY = ("complete", "unreadable", "hjepa", "model.name", "images.source", "images.folder")


@dataclass(frozen=True)
class Part:
    """The images that one of several processes embeds; whole batches, so that no feature depends on the split."""

    number: int
    of: int
    first: int
    count: int

    @classmethod
    def of_rank(cls, rank: int, world_size: int, images: int, batch_size: int) -> "Part":
        """Return the part of a rank: contiguous images, in the order of the ranks."""
        batches = -(-images // batch_size)
        first, end = (min(n * batches // world_size * batch_size, images) for n in (rank, rank + 1))
        return cls(rank, world_size, first, end - first)

    def batches(self, batch_size: int, done: int) -> list[range]:
        """Return the batches that are left after ``done`` images of this part."""
        end = self.first + self.count
        return [range(start, min(start + batch_size, end)) for start in range(self.first + done, end, batch_size)]


@dataclass(frozen=True)
class Plan:
    """All facts about an embedding file; ``metadata`` is what is stored."""

    metadata: dict[str, Any]

    @property
    def levels(self) -> list[str]:
        """Return the names of the levels, one row of each image for each of them."""
        return list(self.metadata["shapes"])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of a vector by level: [F], or [GH, GW, D] for patches."""
        return {level: tuple(shape) for level, shape in self.metadata["shapes"].items()}

    @property
    def common_shape(self) -> tuple[int, ...] | None:
        """Return the shape of a vector if it is the same at all levels."""
        shapes = set(self.shapes.values())
        return shapes.pop() if len(shapes) == 1 else None

    @property
    def floats_per_image(self) -> int:
        """Return how many numbers an image has, all levels together."""
        return int(sum(np.prod(shape) for shape in self.shapes.values()))

    @property
    def part(self) -> Part:
        """Return which of the images are in this file."""
        return Part(**self.metadata["part"])

    def completed(self, unreadable: int) -> "Plan":
        """Return the metadata of the finished file."""
        return Plan({**self.metadata, "complete": True, "unreadable": unreadable})


def make_plan(
    encoder: OpenedEncoder,
    source: ImageSource,
    *,
    pooling: str | None,
    level: str,
    precision: str,
    batch_size: int,
    device: torch.device,
    part: Part,
) -> Plan:
    """Return the plan; raises UserError for a pooling or level that the encoder does not have."""
    pooling = encoder.choose_pooling(pooling)
    size = encoder.preprocess.get("image_size") or encoder.preprocess["input_size"][1:]
    blank = encoder.prepare(np.zeros((*size, encoder.channels), dtype=np.uint8))[None].to(device)
    shapes = encoder.vectors(blank, pooling=pooling, level=level)
    return Plan(
        {
            "format": FORMAT,
            "version": VERSION,
            "hjepa": __version__,
            "model": {"name": encoder.name, "fingerprint": encoder.fingerprint},
            "preprocess": dict(encoder.preprocess),
            "pooling": pooling,
            "level": level,
            "shapes": {name: list(each.shape[1:]) for name, each in shapes.items()},
            "images": {
                "source": source.name,
                "count": len(source),
                "fingerprint": source.fingerprint(),
                "folder": str(Path.cwd()),  # that relative paths are relative to
            },
            "part": {"number": part.number, "of": part.of, "first": part.first, "count": part.count},
            "precision": precision,
            "batch_size": batch_size,
            "complete": False,
            "unreadable": 0,
        }
    )


def refuse_unequal_shapes(plan: Plan) -> None:
    """Raise UserError for vectors that are no array: those of levels with different shapes."""
    if plan.common_shape is None:
        shapes = ", ".join(f"{level}: {list(shape)}" for level, shape in plan.shapes.items())
        raise UserError(f"--level all: the levels have vectors of different shapes ({shapes}); use --out FILE.parquet")


def refuse_other_plan(out: str, known: Mapping[str, Any], wanted: Plan) -> None:
    """Raise UserError naming the first fact in which the file at ``out`` differs from what is wanted."""
    have, want = _flat(known), _flat(wanted.metadata)
    what = {
        "model.fingerprint": "vectors of another model",
        "images.fingerprint": "vectors of other images",
        "images.count": "vectors of other images",
    }
    for name in dict.fromkeys((*what, *want, *have)):
        if name in NAMES_ONLY or have.get(name) == want.get(name):
            continue
        found = what.get(name, f"vectors made differently ({name} {have.get(name)}, now {want.get(name)})")
        raise UserError(f"--out {out}: holds {found}; name another file, or replace it with --overwrite")


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested facts under dotted names; level shapes and preprocessing as a whole."""
    found: dict[str, Any] = {}
    for name, each in value.items():
        nested = isinstance(each, Mapping) and name not in ("shapes", "preprocess")
        found |= _flat(each, f"{prefix}{name}.") if nested else {f"{prefix}{name}": each}
    return found
