"""Files beside an embedding file: metadata as JSON, and the working files of formats that are written at the end."""

import json
from pathlib import Path
from typing import Any

from hjepa.deploy.embed.plan import FORMAT
from hjepa.deploy.embed.store import StorePaths
from hjepa.files import flush_to_disk


def beside(out: Path, ending: str) -> Path:
    """Return the path of the file with one more ending."""
    return out.with_name(f"{out.name}.{ending}")


def working_folder(out: Path) -> Path:
    """Return the hidden folder in which the vectors grow; readers of data sets leave out hidden names."""
    return out.with_name(f".{out.name}.partial")


def working_paths(out: Path) -> StorePaths:
    """Return the files in the hidden folder."""
    folder = working_folder(out)
    return StorePaths(folder / "vectors.npy", folder / "rows.csv", folder / "metadata.json")


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Return the metadata of one of our files; None if this is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def move_finished(finished: Path, out: Path) -> None:
    """Move a finished file from the hidden folder to its place, where it appears as a whole or not at all."""
    flush_to_disk(finished)
    finished.replace(out)
    flush_to_disk(out.parent)
