"""``FILE.csv``: path, level, content_hash, error and one column per number; metadata in ``FILE.csv.json``."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from hjepa.deploy.embed.plan import Plan, refuse_unequal_shapes
from hjepa.deploy.embed.sidecar import beside, move_finished, read_sidecar, working_folder, working_paths
from hjepa.deploy.embed.store import COLUMNS, Row, load_vectors, read_rows, write_complete
from hjepa.errors import UserError

store_paths = working_paths
refuse = refuse_unequal_shapes


def finish(out: Path, plan: Plan) -> None:
    """Write the file from the working files, then remove these."""
    paths, finished = store_paths(out), working_folder(out) / "finished"
    vectors = load_vectors(paths.vectors, plan).reshape(plan.part.count * len(plan.levels), -1)
    with finished.open("w", newline="", encoding="utf-8") as text:
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow([*COLUMNS, *(f"v{n}" for n in range(vectors.shape[1]))])
        for row, vector in zip(read_rows(paths.rows), vectors, strict=True):
            lines.writerow([*row, *(f"{value:.9g}" for value in vector.tolist())])
    move_finished(finished, out)
    write_complete(beside(out, "json"), plan)
    shutil.rmtree(working_folder(out), ignore_errors=True)


def known_metadata(out: Path) -> dict[str, Any] | None:
    """Return the metadata of a finished file; None if there is none."""
    return read_sidecar(beside(out, "json"))


def read(out: Path, plan: Plan) -> tuple[np.ndarray, list[Row]]:
    """Return the vectors, float32 [n, floats per image], and the rows."""
    columns, rows = len(COLUMNS), []
    width = plan.floats_per_image // len(plan.levels)
    vectors = np.empty((plan.part.count * len(plan.levels), width), dtype=np.float32)
    try:
        with out.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            next(lines)
            for number, line in enumerate(lines):
                rows.append(Row(*line[:columns]))
                vectors[number] = line[columns:]
    except (OSError, ValueError, TypeError, IndexError, StopIteration):
        raise UserError(f"{out}: damaged; embed the images again with --overwrite") from None
    return vectors.reshape(-1, plan.floats_per_image), rows
