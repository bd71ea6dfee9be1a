"""Images listed in a text file or a table."""

import csv
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hjepa.data.name_table import NameTable, PathTable
from hjepa.data.sources.files import DiskSource
from hjepa.data.sources.protocol import number_classes
from hjepa.errors import UserError
from hjepa.files import shown

LISTS = (".txt", ".csv", ".parquet")
Rows = Iterator[tuple[str, str | None]]  # path and label


class ListSource(DiskSource):
    """Images listed in a .txt file (one path per line), or in a .csv or .parquet file (``path``, optionally ``label``).

    ``column`` is the name of the column with the paths. Relative paths are relative to the list's own folder.
    """

    def __init__(self, file: Path, wanted: int | None = None, *, column: str | None = None) -> None:
        names: list[str | None] = []  # of classes: each text once, however many images have it

        def paths() -> Iterator[str]:
            for path, label in _rows(file, column):
                names.append(label and sys.intern(label))
                yield _existing(file, path)

        table = NameTable(paths())
        if not len(table):
            raise UserError(f"{file} lists no images: write one path per line")
        classes, labels = number_classes(names)
        super().__init__(str(file), PathTable(Path(), table), file.parent, labels, wanted)
        self.classes = classes
        if any(names) and not all(names):
            line = _line_of_first_blank(names)
            where = f"line {line}" if file.suffix.lower() == ".csv" else f"row {line - 1}"
            self.unlabelled = f"add the missing label in {where}"


def _existing(file: Path, listed: str) -> str:
    path = os.path.join(file.parent, os.path.expanduser(listed))  # noqa: PTH111, PTH118  (of a million lines)
    if not os.path.isfile(path):  # noqa: PTH113
        told = f"{file} lists {shown(path)}, which does not exist"
        if any("\udc80" <= letter <= "\udcff" for letter in listed):  # bytes that are not UTF-8
            raise UserError(f"{told}; it is not UTF-8 text: save the list as UTF-8")
        raise UserError(f"{told}: correct the list")
    return path


def _rows(file: Path, column: str | None) -> Rows:
    ending = file.suffix.lower()
    if ending == ".parquet":
        yield from _parquet_rows(file, column or "path")
        return
    try:
        # Names of files may be any bytes, and so may a list of them.
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
            if "\0" in lines.read(1024):  # as in UTF-16
                raise UserError(f"{file} is not UTF-8 text: save it as UTF-8")
            lines.seek(0)
            yield from _csv_rows(file, lines, column or "path") if ending == ".csv" else _text_rows(lines)
    except csv.Error as error:
        raise UserError(f"{file} cannot be read as a table ({error}): correct the list") from None


def _text_rows(lines: Iterable[str]) -> Rows:
    stripped = (line.strip() for line in lines)
    return ((line, None) for line in stripped if line and not line.startswith("#"))


def _csv_rows(file: Path, lines: Iterable[str], column: str) -> Rows:
    reader = csv.DictReader(lines)
    _refuse_without(file, column, reader.fieldnames or ())
    for row in reader:
        if not row[column]:
            raise UserError(f"{file}, line {reader.line_num}: has no path")
        label = row.get("label")
        yield row[column], label and shown(label)


def _parquet_rows(file: Path, column: str) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(f"{file} needs pyarrow: pip install 'hjepa[parquet]'") from None
    try:
        table = parquet.ParquetFile(file)
        names = table.schema_arrow.names
        _refuse_without(file, column, names)
        wanted = [name for name in (column, "label") if name in names]
        row = 0
        for batch in table.iter_batches(columns=wanted):
            columns = batch.to_pydict()
            labels = columns.get("label", [None] * len(batch))
            for path, label in zip(columns[column], labels, strict=True):
                row += 1
                if not isinstance(path, str) or not path:
                    what = "no path" if path is None or path == "" else "no text"
                    raise UserError(f"{file}, row {row}: column {column!r} has {what}; {_for_images_inside(file)}")
                yield path, None if label is None else str(label)
    except (pyarrow.ArrowException, OSError):
        raise UserError(f"{file} cannot be read as a Parquet file: write it again") from None


def _refuse_without(file: Path, column: str, columns: Sequence[str]) -> None:
    if column in columns:
        return
    if column != "path":
        raise UserError(f"{file} has no column {column!r}: its columns are {', '.join(columns)}")
    is_table = file.suffix.lower() == ".parquet"
    needed = "it needs" if is_table else "its first line must be a header with"
    inside = f"; {_for_images_inside(file)}" if is_table else ""
    raise UserError(
        f"{file} has no column 'path' ({', '.join(columns)}): {needed} path and, optionally, label; another column of "
        f"paths is named as {file.name}:COLUMN{inside}"
    )


def _for_images_inside(file: Path) -> str:
    return f"if it contains the images themselves, use hf:{file.parent}"


def _line_of_first_blank(cells: Sequence[str | None]) -> int:
    """Return the line of a .csv file, which begins with its header as line 1."""
    return 2 + [not cell for cell in cells].index(True)
