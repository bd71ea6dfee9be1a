"""Images in files: a folder, or a list of paths."""

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from hjepa.data.decode import read_image
from hjepa.data.endings import ENDINGS, is_image, left_out_text
from hjepa.data.file_facts import FileFacts, facts_of
from hjepa.data.reduce import Reduction
from hjepa.data.sources.protocol import number_classes
from hjepa.data.survey import Survey
from hjepa.errors import UserError
from hjepa.files import shown


class FileSource:
    """Images in files, read on demand. Greyscale is kept: one channel if every file has one.

    ``wanted`` is data.channels, if it is set. ``unlabelled`` tells how to add labels if there are none.
    """

    unlabelled = "use for example one folder per class"

    def __init__(
        self, name: str, paths: Sequence[Path], root: Path, labels: dict[str, np.ndarray], wanted: int | None = None
    ) -> None:
        self.name, self.paths, self.root, self._labels = shown(name), list(paths), root, labels
        self.classes: list[str] = []
        self.survey = Survey(self.paths, wanted)
        self._wanted = wanted
        self.channels = wanted or self.survey.channels
        self.left_out: Counter[str] = Counter()  # endings of the files beside the images
        self.facts: list[FileFacts] = []  # as the last fingerprint found them
        self.removed: set[int] = set()  # files that were unreadable in a run, removed before it was resumed
        self.facts_before: dict[Path, FileFacts] = {}  # of files that have been removed or replaced since a run began

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index], self.channels)

    def reduced(self, index: int, reduction: Reduction) -> np.ndarray:
        """Return an image of a training set, read as small as its crops allow."""
        return read_image(self.paths[index], self.channels, reduction)

    @property
    def deep_images(self) -> list[int]:
        """Return which images have more than 8 bits, as far as their headers were read."""
        return self.survey.deep_images

    def notices(self) -> list[str]:
        """Return what the user should know of the files before training."""
        return [*self.survey.notices(self._wanted), *left_out_text(self.left_out)]

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Return the class folders as labels, if there are any."""
        return self._labels

    def fingerprint(self) -> str:
        """Digests of every path and file size, and of the content of a sample of the files."""
        self.facts = facts_of(self.paths, self.facts_before)
        names, contents = hashlib.sha256(), hashlib.sha256()
        for path, facts in zip(self.paths, self.facts, strict=True):
            line = f"{os.path.relpath(path, self.root)}\0{facts.size}\n"
            names.update(line.encode("utf-8", "surrogateescape"))  # names in files may be any bytes
            contents.update(f"{facts.content}\n".encode())
        return f"{len(self)}-{names.hexdigest()[:16]}-{contents.hexdigest()[:16]}"


class FolderSource(FileSource):
    """All images below a folder, in the order of their paths; hidden files are ignored.

    If every image lies in a subfolder, the first folder of its path is its label.
    """

    def __init__(self, root: Path, wanted: int | None = None) -> None:
        left_out: Counter[str] = Counter()
        paths = sorted(image_files(root, left_out))
        if not paths:
            others = "".join(f"; {text}" for text in left_out_text(left_out))
            raise UserError(
                f"{shown(root)} contains no images: searched it recursively for {', '.join(sorted(ENDINGS))} "
                f"and for other files that begin like images{others}"
            )
        parts = [path.relative_to(root).parts for path in paths]
        classes, labels = number_classes([shown(p[0]) if len(p) > 1 else None for p in parts])
        super().__init__(str(root), paths, root, labels, wanted)
        self.classes, self.left_out = classes, left_out
        bare = [path for path, names in zip(paths, parts, strict=True) if len(names) == 1]
        if 0 < len(bare) < len(paths):
            self.unlabelled = f"move {shown(bare[0])} into a class folder, like the other images"


class ListSource(FileSource):
    """Images listed in a .txt file (one path per line) or a .csv file (column ``path``, optionally ``label``).

    Relative paths are relative to the list's own folder.
    """

    def __init__(self, file: Path, wanted: int | None = None) -> None:
        try:
            with file.open(newline="", encoding="utf-8-sig") as lines:
                rows = _csv_rows(file, lines) if file.suffix.lower() == ".csv" else _text_rows(lines)
        except (UnicodeDecodeError, csv.Error):
            raise UserError(f"{file} is not UTF-8 text: save it as UTF-8") from None
        if not rows:
            raise UserError(f"{file} lists no images: write one path per line")
        paths = [file.parent / Path(path).expanduser() for path, _ in rows]
        for path in paths:
            if not path.is_file():
                raise UserError(f"{file} lists {path}, which does not exist: correct the list")
        names = [label for _, label in rows]
        classes, labels = number_classes(names)
        super().__init__(str(file), paths, file.parent, labels, wanted)
        self.classes = classes
        if any(names) and not all(names):
            self.unlabelled = f"add the missing label in line {_line_of_first_blank(names)}"


def image_files(root: Path, left_out: Counter[str] | None = None) -> Iterator[Path]:
    """Yield every image below a folder; hidden files and folders, and links that lead back up, are ignored.

    The endings of files that are no images are counted in ``left_out``.
    """
    seen: set[str] = set()  # real paths, so that a link that leads back up ends
    for folder, subfolders, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            path = Path(folder, name)
            if name.startswith(".") or not path.is_file():
                continue
            if is_image(path):
                yield path
            elif left_out is not None:
                left_out[shown(path.suffix.lower())] += 1


def _text_rows(lines: Iterable[str]) -> list[tuple[str, str | None]]:
    stripped = (line.strip() for line in lines)
    return [(line, None) for line in stripped if line and not line.startswith("#")]


def _csv_rows(file: Path, lines: Iterable[str]) -> list[tuple[str, str | None]]:
    reader = csv.DictReader(lines)
    if "path" not in (reader.fieldnames or ()):
        raise UserError(
            f"{file} has no column 'path': its first line must be a header with path and, optionally, label"
        )
    rows = [(row["path"], row.get("label")) for row in reader]
    if not all(path for path, _ in rows):
        raise UserError(f"{file}, line {_line_of_first_blank([path for path, _ in rows])}: has no path")
    return rows


def _line_of_first_blank(cells: Sequence[str | None]) -> int:
    """Return the line of a .csv file, which begins with its header as line 1."""
    return 2 + [not cell for cell in cells].index(True)
