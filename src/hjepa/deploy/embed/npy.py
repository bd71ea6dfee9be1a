"""``FILE.npy``: one array, written in place; its rows in ``FILE.npy.rows.csv``, the rest in ``FILE.npy.json``."""

from pathlib import Path
from typing import Any

import numpy as np

from hjepa.deploy.embed.plan import Plan, refuse_unequal_shapes
from hjepa.deploy.embed.sidecar import beside, read_sidecar
from hjepa.deploy.embed.store import Row, StorePaths, load_vectors, read_rows, write_complete
from hjepa.errors import UserError

refuse = refuse_unequal_shapes


def store_paths(out: Path) -> StorePaths:
    """Return where the vectors grow: in the file itself."""
    return StorePaths(out, beside(out, "rows.csv"), beside(out, "json"))


def finish(out: Path, plan: Plan) -> None:
    """Mark the file as complete."""
    write_complete(store_paths(out).metadata, plan)


def known_metadata(out: Path) -> dict[str, Any] | None:
    """Return the metadata of a finished file; None if there is none."""
    return read_sidecar(beside(out, "json"))


def read(out: Path, plan: Plan) -> tuple[np.ndarray, list[Row]]:
    """Return the vectors, float32 [n, floats per image] mapped into memory, and the rows."""
    try:
        return load_vectors(out, plan), list(read_rows(store_paths(out).rows))
    except (OSError, ValueError):
        raise UserError(f"{out}: damaged, or without {beside(out, 'rows.csv').name}; embed the images again") from None
