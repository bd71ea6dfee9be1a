"""``hjepa duplicates``: groups of copies in a collection, and what could be dropped; nothing is deleted."""

import csv
import io
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hjepa.commands.search import open_collection
from hjepa.deploy.contact_sheet import Picture, Pictures, Section, write_contact_sheet
from hjepa.deploy.duplicates import Calibration, Copy, Group, find_duplicates
from hjepa.deploy.embed.loop import Progress
from hjepa.errors import UserError
from hjepa.files import refuse_other_file, write_text
from hjepa.runs.run import Run

LIST_COLUMNS = ("group", "action", "path", "similarity", "reason")


@dataclass(frozen=True)
class Duplicates:
    """The groups of copies, and how they were found."""

    groups: list[Group]
    paths: list[str]
    threshold: float
    calibration: Calibration | None
    unreadable: int
    pictures: Pictures

    @property
    def dropped(self) -> int:
        """Return how many images could be dropped."""
        return sum(len(group.copies) for group in self.groups)

    def to_json(self) -> dict[str, Any]:
        """Return the stable form of ``hjepa duplicates --json``."""
        found = self.calibration
        return {
            "images": len(self.paths),
            "unreadable": self.unreadable,
            "groups": [
                {"keep": self.paths[group.keep], "drop": [self._copy_to_json(copy) for copy in group.copies]}
                for group in self.groups
            ],
            "threshold": round(self.threshold, 6),
            "calibration": None
            if found is None
            else {
                "images": found.images,
                "found": {kind: round(part, 4) for kind, part in found.found.items()},
                "false_pairs": found.false_pairs,
            },
        }

    def _copy_to_json(self, copy: Copy) -> dict[str, Any]:
        return {
            "path": self.paths[copy.index],
            "similarity": round(copy.similarity, 6),
            "pixels": None if copy.pixels is None else round(copy.pixels, 4),
            "exact_copy": copy.exact,
        }

    def write_list(self, path: str | os.PathLike[str]) -> None:
        """Write what to keep and what to drop, as .csv; raises UserError rather than replace another file."""
        file = Path(path).expanduser()
        head = ",".join(LIST_COLUMNS)
        refuse_other_file("--list", file, head, "hjepa duplicates")
        text = io.StringIO(newline="")
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(LIST_COLUMNS)
        for number, group in enumerate(self.groups, start=1):
            lines.writerow((number, "keep", self.paths[group.keep], "", ""))
            for copy in group.copies:
                lines.writerow((number, "drop", self.paths[copy.index], f"{copy.similarity:.4f}", reason(copy)))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text.getvalue())

    def write_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page with the pictures of each group, the kept one first."""
        sections = [
            Section(f"group {number}", [self._picture(group.keep, "keep"), *(
                self._picture(copy.index, f"{copy.similarity:.3f}, {reason(copy)}") for copy in group.copies
            )])
            for number, group in enumerate(self.groups, start=1)
        ]  # fmt: skip
        title = f"{len(self.groups):,} groups of duplicates among {len(self.paths):,} images"
        write_contact_sheet(Path(path).expanduser(), title, sections)

    def _picture(self, index: int, text: str) -> Picture:
        return Picture(self.pictures.pixels(index, self.paths[index]), text, self.paths[index])


def reason(copy: Copy) -> str:
    """Return why an image is in its group."""
    return "exact copy" if copy.exact else "near duplicate"


def duplicates(
    run: Run | str | os.PathLike[str],
    images: Any,
    *,
    threshold: float | None = None,
    pixels: bool = True,
    vectors: str | os.PathLike[str] | None = None,
    pooling: str | None = None,
    level: str | int | None = None,
    progress: Callable[[Progress], None] | None = None,
    notice: Callable[[str], None] = lambda _text: None,
) -> Duplicates:
    """Return groups of copies: byte for byte, re-encoded, resized or cropped by a few per cent.

    ``images`` is an embedding file, or images that are embedded first; ``vectors`` keeps their vectors for next time.
    Pairs whose vectors have at least the cosine similarity ``threshold`` are compared pixel by pixel, unless ``pixels``
    is False. Without ``threshold`` it is what 99 % of the copies of each kind have, made of these images.
    Nothing is deleted. Raises UserError in one line.
    """
    if threshold is not None and not -1.0 <= threshold <= 1.0:
        raise UserError(f"--threshold {threshold:g}: must be a cosine similarity from -1 to 1; use auto")
    if not pixels and threshold is None:
        raise UserError("--no-pixels: set a threshold that fits this encoder, such as --threshold 0.99")
    with ExitStack() as stack:
        collection = open_collection(
            run, images, vectors=vectors, pooling=pooling, level=level, progress=progress, stack=stack
        )
        groups, calibration = find_duplicates(collection, threshold=threshold, pixels=pixels, notice=notice)
        embeddings = collection.embeddings
        chosen = calibration.threshold if calibration is not None else threshold
        assert chosen is not None
        unreadable = sum(bool(error) for error in embeddings.errors)
        return Duplicates(groups, embeddings.paths, chosen, calibration, unreadable, collection.pictures())
