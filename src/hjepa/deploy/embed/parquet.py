"""``FILE.parquet``: path, level, vector, content_hash, error; metadata in the schema under the key ``hjepa``."""

import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hjepa.deploy.embed.plan import FORMAT, Plan
from hjepa.deploy.embed.sidecar import move_finished, working_folder, working_paths
from hjepa.deploy.embed.store import COLUMNS, Row, load_vectors, read_rows
from hjepa.errors import UserError

KEY = b"hjepa"
_FLOATS_PER_GROUP = 8_000_000  # 32 MB: what writing a file takes in memory, a few times over

store_paths = working_paths


def refuse(plan: Plan) -> None:
    """Raise UserError if pyarrow is missing; vectors of any shape can be stored, as lists."""
    _pyarrow()


def finish(out: Path, plan: Plan) -> None:
    """Write the file from the working files in groups of rows, then remove these."""
    paths, finished = store_paths(out), working_folder(out) / "finished"
    _write(finished, paths.vectors, paths.rows, plan)
    move_finished(finished, out)
    shutil.rmtree(working_folder(out), ignore_errors=True)


def known_metadata(out: Path) -> dict[str, Any] | None:
    """Return the metadata of one of our files; None if this is none."""
    if not out.is_file():
        return None
    pyarrow, parquet = _pyarrow()
    try:
        found = json.loads((parquet.read_schema(out).metadata or {}).get(KEY, b"{}"))
    except (OSError, ValueError, pyarrow.ArrowException):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def read(out: Path, plan: Plan) -> tuple[np.ndarray, list[Row]]:
    """Return the vectors, float32 [n, floats per image], and the rows."""
    pyarrow, parquet = _pyarrow()
    try:
        table = parquet.read_table(out)
    except (OSError, ValueError, pyarrow.ArrowException):
        raise UserError(f"{out}: damaged; embed the images again with --overwrite") from None
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["vector"].chunks]
    vectors = np.concatenate(chunks) if chunks else np.empty(0, dtype=np.float32)
    columns = [table[name].to_pylist() for name in COLUMNS]
    rows = [Row(path, level, digest, error or "") for path, level, digest, error in zip(*columns, strict=True)]
    return vectors.reshape(-1, plan.floats_per_image), rows


def _write(file: Path, vectors: Path, rows: Path, plan: Plan) -> None:
    pyarrow, parquet = _pyarrow()
    shape = plan.common_shape
    kind = pyarrow.list_(pyarrow.float32(), int(np.prod(shape))) if shape else pyarrow.list_(pyarrow.float32())
    text = pyarrow.string()
    schema = pyarrow.schema(
        [("path", text), ("level", text), ("vector", kind), ("content_hash", text), ("error", text)],
        metadata={KEY: json.dumps(plan.metadata)},
    )
    with parquet.ParquetWriter(file, schema) as writer:
        for flat, found in _groups(vectors, rows, plan):
            values = pyarrow.array(flat)
            if shape:
                column = pyarrow.FixedSizeListArray.from_arrays(values, type=kind)
            else:
                sizes = [int(np.prod(plan.shapes[row.level])) for row in found]
                offsets = pyarrow.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
                column = pyarrow.ListArray.from_arrays(offsets, values)
            paths, levels, digests, errors = (list(each) for each in zip(*found, strict=True))
            errors = [error or None for error in errors]
            arrays = [pyarrow.array(paths, text), pyarrow.array(levels, text), column, pyarrow.array(digests, text)]
            writer.write_table(pyarrow.Table.from_arrays([*arrays, pyarrow.array(errors, text)], schema=schema))


def _groups(vectors: Path, rows: Path, plan: Plan) -> Iterator[tuple[np.ndarray, list[Row]]]:
    """Yield the numbers, float32 flat, and the rows of some images after the other."""
    floats, found = plan.floats_per_image, read_rows(rows)
    whole = load_vectors(vectors, plan)
    step = max(1, _FLOATS_PER_GROUP // floats)
    for start in range(0, len(whole), step):
        some = np.array(whole[start : start + step])
        yield some.reshape(-1), list(islice(found, len(some) * len(plan.levels)))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("a .parquet file needs pyarrow: pip install 'hjepa[parquet]', or use --out FILE.npy") from None
    return pyarrow, pyarrow.parquet
