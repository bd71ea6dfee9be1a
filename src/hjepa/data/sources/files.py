"""Images in files: what all kinds have in common, and the folder."""

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from hjepa.data.decode import read_image
from hjepa.data.encoded import ImageFile
from hjepa.data.endings import ENDINGS, is_image, left_out_text
from hjepa.data.file_facts import FactTable, FileFacts
from hjepa.data.name_table import NameTable, PathTable
from hjepa.data.reduce import Reduction
from hjepa.data.sources.protocol import ImageSource, number_classes
from hjepa.data.survey import Survey
from hjepa.errors import UserError
from hjepa.files import shown


class ImageFiles(Protocol):
    """Image files by number: paths, or members of an archive."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ImageFile: ...

    def __iter__(self) -> Iterator[ImageFile]: ...


class FileSource:
    """Images in files, read on demand. Greyscale is kept: one channel if every file has one.

    ``wanted`` is data.channels, if it is set. ``unlabelled`` tells how to add labels if there are none. ``root`` is
    the folder from which paths are seen in records of a run, if the files lie on the disk as they are.
    """

    unlabelled = "use for example one folder per class"
    root: Path | None = None

    def __init__(self, name: str, paths: ImageFiles, labels: dict[str, np.ndarray], wanted: int | None = None) -> None:
        self.name, self.paths, self._labels, self.wanted = shown(name), paths, labels, wanted
        self.classes: list[str] = []
        self.left_out: Counter[str] = Counter()  # endings of the files beside the images

    @functools.cached_property
    def survey(self) -> Survey:
        """Return what the headers of the files contain; read when it is first asked for."""
        return Survey.of(self.paths, self.wanted)

    @functools.cached_property
    def channels(self) -> int:
        """Return data.channels, or else the channels that hold all files."""
        return self.wanted or self.survey.channels

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
        return [*self.survey.notices(self.wanted), *self.about_files()]

    def about_files(self) -> list[str]:
        """Return what the user should know of the files, without their headers."""
        return list(left_out_text(self.left_out))

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Return the class folders as labels, if there are any."""
        return self._labels

    def fingerprint(self) -> str:
        """Digest of every name and file size."""
        digest = hashlib.sha256()
        for name, size in self.names_and_sizes():
            digest.update(f"{name}\0{size}\n".encode("utf-8", "surrogateescape"))  # names in files may be any bytes
        return f"{len(self)}-{digest.hexdigest()[:16]}"

    def names_and_sizes(self) -> Iterator[tuple[str, int]]:
        """Yield the name of each file within the source, and its size in bytes."""
        raise NotImplementedError


class DiskSource(FileSource):
    """Images in files of their own, which may vanish, be damaged, removed or replaced while a run goes on."""

    paths: PathTable
    root: Path

    def __init__(
        self, name: str, paths: PathTable, root: Path, labels: dict[str, np.ndarray], wanted: int | None = None
    ) -> None:
        super().__init__(name, paths, labels, wanted)
        self.root = root
        self.facts = FactTable()  # as the last fingerprint found them
        self.removed: set[int] = set()  # files that were unreadable in a run, removed before it was resumed
        self.facts_before: dict[Path, FileFacts] = {}  # of files that have been removed or replaced since a run began

    def fingerprint(self) -> str:
        """Digests of every path and file size, and of the content of a sample of the files."""
        self.facts = FactTable.of(self.paths, self.facts_before)
        names, contents = hashlib.sha256(), hashlib.sha256()
        for path, facts in zip(self.paths, self.facts, strict=True):
            line = f"{self.seen_from_root(path)}\0{facts.size}\n"
            names.update(line.encode("utf-8", "surrogateescape"))  # names in files may be any bytes
            contents.update(f"{facts.content}\n".encode())
        return f"{len(self)}-{names.hexdigest()[:16]}-{contents.hexdigest()[:16]}"

    def seen_from_root(self, path: Path) -> str:
        """Return a path relative to ``root``."""
        return os.path.relpath(path, self.root)


class FolderSource(DiskSource):
    """All images below a folder, in the order of their paths; hidden files are ignored.

    If every image lies in a subfolder, the first folder of its path is its label.
    """

    def __init__(self, root: Path, wanted: int | None = None) -> None:
        left_out: Counter[str] = Counter()
        names = NameTable(_images_below(root, left_out))
        if not len(names):
            others = "".join(f"; {text}" for text in left_out_text(left_out))
            raise UserError(
                f"{shown(root)} contains no images: searched it recursively for {', '.join(sorted(ENDINGS))} "
                f"and for other files that begin like images{others}"
            )
        classes, labels = class_folders(names)
        super().__init__(str(root), PathTable(root, names), root, labels, wanted)
        self.classes, self.left_out = classes, left_out
        if not labels and (bare := first_outside_folders(names)) is not None:
            self.unlabelled = f"move {shown(root / bare)} into a class folder, like the other images"


def class_folders(names: NameTable, depth: int = 0) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the folder at ``depth`` of each name as its class; none if any name has no such folder."""
    return number_classes(_folder(name, depth) for name in names)


def first_outside_folders(names: NameTable) -> str | None:
    """Return the first name without a folder, if others have one."""
    bare = next((name for name in names if "/" not in name), None)
    return bare if any("/" in name for name in names) else None


def _folder(name: str, depth: int) -> str | None:
    parts = name.split("/", depth + 1)
    return shown(parts[depth]) if len(parts) > depth + 1 else None


def image_files(root: Path, left_out: Counter[str] | None = None) -> Iterator[Path]:
    """Yield every image below a folder; hidden files and folders, and links that lead back up, are ignored.

    The endings of files that are no images are counted in ``left_out``.
    """
    return (root / name for name in _images_below(root, Counter() if left_out is None else left_out))


def _images_below(root: Path, left_out: Counter[str]) -> Iterator[str]:
    """Yield the paths of images below ``root`` in the order of their parts, folders and files mixed."""
    seen: set[str] = set()  # real paths, so that a link that leads back up ends

    def below(folder: str, prefix: str) -> Iterator[str]:
        if (real := os.path.realpath(folder)) in seen:
            return
        seen.add(real)
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:  # as os.walk does
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is(entry, folder=True):
                yield from below(entry.path, f"{prefix}{entry.name}/")
            elif _is(entry, folder=False):
                path = Path(entry.path)
                if is_image(path):
                    yield prefix + entry.name
                else:
                    left_out[shown(path.suffix.lower())] += 1

    return below(os.fspath(root), "")


def _is(entry: "os.DirEntry[str]", *, folder: bool) -> bool:
    try:
        return entry.is_dir() if folder else entry.is_file()
    except OSError:  # such as a link to itself
        return False


def image_name(source: ImageSource, index: int) -> str:
    """Return the path of an image as text on one line, or ``image 17`` where it is not a file."""
    return shown(source.paths[index]) if isinstance(source, FileSource) else f"image {index}"
