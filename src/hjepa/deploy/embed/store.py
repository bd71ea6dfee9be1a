"""Vectors and rows as they grow on the disk, so that a kill loses at most the batch in progress.

The vectors are a .npy file that is appended to; the rows are a .csv file, which is the record of what is done: rows are
written after their vectors have reached the disk. Resuming cuts both to the last whole batch.
"""

import contextlib
import csv
import fcntl
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from hjepa.deploy.embed.plan import Plan
from hjepa.errors import UserError
from hjepa.files import flush_to_disk, shown, write_json

COLUMNS = ("path", "level", "content_hash", "error")


class Row(NamedTuple):
    """What is known of one vector beside its numbers."""

    path: str
    level: str
    content_hash: str
    error: str  # empty if the image was read


@dataclass(frozen=True)
class StorePaths:
    """The three files of a store."""

    vectors: Path
    rows: Path
    metadata: Path


class Store:
    """The files of one embedding while it is being written, for one process at a time."""

    def __init__(self, paths: StorePaths, plan: Plan) -> None:
        self.paths, self.plan = paths, plan
        shape = plan.common_shape or (plan.floats_per_image,)
        rows = plan.part.count * (len(plan.levels) if plan.common_shape else 1)
        self.header = _npy_header((rows, *shape))
        self.bytes_per_image = 4 * plan.floats_per_image

    @contextlib.contextmanager
    def opened(self) -> Iterator["OpenStore"]:
        """Lock the files, cut them to what is certain, and yield them for appending."""
        self.paths.vectors.parent.mkdir(parents=True, exist_ok=True)
        with self.paths.rows.open("ab") as lock:  # created here; locked even if the process is killed later
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                name = shown(self.paths.vectors)
                raise UserError(f"--out {name}: another process is writing this file; wait until it is done") from None
            if not self.paths.metadata.is_file():
                write_json(self.paths.metadata, self.plan.metadata)
            with self.paths.rows.open("r+b") as rows, _opened(self.paths.vectors) as vectors:
                yield OpenStore(vectors, rows, self._resume(vectors, rows), self.plan)

    def _resume(self, vectors: BinaryIO, rows: BinaryIO) -> int:
        """Cut both files to whole batches that both of them have; return how many images are done."""
        ends = [0]
        for line in rows:
            if line.endswith(b"\n"):
                ends.append(ends[-1] + len(line))
        levels, batch = len(self.plan.levels), int(self.plan.metadata["batch_size"])
        size = vectors.seek(0, os.SEEK_END)
        done = min(max(len(ends) - 2, 0) // levels, max(size - len(self.header), 0) // self.bytes_per_image)
        if done < self.plan.part.count:
            done = done // batch * batch
        if not done:
            vectors.truncate(0)
            rows.truncate(0)
            vectors.seek(0)
            vectors.write(self.header)
            rows.seek(0)
            rows.write(_csv_lines([COLUMNS]))
        else:
            vectors.truncate(len(self.header) + done * self.bytes_per_image)
            rows.truncate(ends[1 + done * levels])
        vectors.seek(0, os.SEEK_END)
        rows.seek(0, os.SEEK_END)
        return done


@dataclass
class OpenStore:
    """A store that can be appended to; ``done`` images of its part are in it."""

    vectors: BinaryIO
    rows: BinaryIO
    done: int
    plan: Plan

    def append(self, vectors: np.ndarray, rows: Sequence[Row]) -> None:
        """Append float32 [b, floats per image] and the rows of these images, levels within images."""
        self.vectors.write(np.ascontiguousarray(vectors, dtype="<f4").data)
        self.vectors.flush()
        os.fsync(self.vectors.fileno())
        self.rows.write(_csv_lines(rows))
        self.rows.flush()
        self.done += len(vectors)

    def sync(self) -> None:
        """Flush the rows to the disk as well."""
        os.fsync(self.rows.fileno())


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a .csv file."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        next(lines, None)
        for line in lines:
            yield Row(*line[: len(COLUMNS)])


def load_vectors(path: Path, plan: Plan) -> np.ndarray:
    """Return the vectors of a .npy file mapped into memory, float32 [n, floats per image]; changes never reach it."""
    vectors = np.load(path, mmap_mode="c" if plan.part.count else None)  # nothing cannot be mapped
    return vectors.reshape(plan.part.count, plan.floats_per_image)


def write_complete(path: Path, plan: Plan) -> None:
    """Replace the metadata of a finished file."""
    write_json(path, plan.metadata)
    flush_to_disk(path.parent)


def _csv_lines(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _npy_header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
