"""The output formats by the ending of the file."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hjepa.deploy.embed import csv_file, npy, parquet
from hjepa.deploy.embed.plan import Plan
from hjepa.deploy.embed.store import Row, StorePaths
from hjepa.errors import UserError


class OutputFormat(Protocol):
    """What a format does: each is a module."""

    def store_paths(self, out: Path) -> StorePaths:
        """Return where the vectors grow."""
        ...

    def refuse(self, plan: Plan) -> None:
        """Raise UserError for what the format cannot hold."""
        ...

    def finish(self, out: Path, plan: Plan) -> None:
        """Turn the store into the finished file; does nothing twice."""
        ...

    def known_metadata(self, out: Path) -> dict[str, Any] | None:
        """Return the metadata of one of our files; None if this is none."""
        ...

    def read(self, out: Path, plan: Plan) -> tuple[np.ndarray, list[Row]]:
        """Return vectors [n, floats per image] and rows."""
        ...


FORMATS: dict[str, OutputFormat] = {".npy": npy, ".parquet": parquet, ".csv": csv_file}


def format_of(out: Path) -> OutputFormat:
    """Return the format for a file name; raises UserError for another ending."""
    found = FORMATS.get(out.suffix.lower())
    if found is None:
        raise UserError(f"--out {out}: name a file that ends in {', '.join(FORMATS)}")
    return found
