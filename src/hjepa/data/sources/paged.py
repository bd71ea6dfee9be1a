"""Every page of a TIFF and every frame of an animation as an image of its own (``data.pages all``)."""

import hashlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from hjepa.data.encoded import ImageFile
from hjepa.data.name_table import NameTable, PathTable
from hjepa.data.pages import Page, page_places
from hjepa.data.sources.files import DiskSource, FileSource, ImageFiles
from hjepa.data.sources.protocol import ImageSource
from hjepa.errors import UserError
from hjepa.files import shown

Pages = Literal["first", "all"]


class PageTable:
    """The pages of files by number, in three arrays; as a sequence of image files. A file of one page is itself."""

    def __init__(self, files: ImageFiles) -> None:
        file_of, number_in, places = array("q"), array("q"), array("q")
        for number, file in enumerate(files):
            found = page_places(file)
            file_of.extend([number] * len(found))
            number_in.extend(range(len(found)))
            places.extend(found)
        self.files = files
        self.file_of, self.number_in, self.places = (
            np.frombuffer(each, dtype=np.int64) for each in (file_of, number_in, places)
        )
        self.pages_of = np.bincount(self.file_of, minlength=len(files))

    def __len__(self) -> int:
        return len(self.file_of)

    def __getitem__(self, index: int) -> ImageFile:
        file = int(self.file_of[index])
        if self.pages_of[file] == 1:
            return self.files[file]
        return Page(self.files[file], int(self.number_in[index]), int(self.places[index]))

    def __iter__(self) -> Iterator[ImageFile]:
        return (self[index] for index in range(len(self)))


class PagedSource(FileSource):
    """The pages of the files of another source, file by file; a page has the label of its file."""

    def __init__(self, files: FileSource, table: PageTable) -> None:
        labels = {name: numbers[table.file_of] for name, numbers in files.labels.items()}
        super().__init__(files.name, table, labels, files.wanted)
        self.files, self.table, self.classes, self.root = files, table, files.classes, files.root
        self.unlabelled = files.unlabelled

    def about_files(self) -> list[str]:
        """Return what the user should know of the files, without their headers."""
        several = self.table.pages_of[self.table.pages_of > 1]
        return [
            f"{int(several.sum()):,} pages or frames of {len(several):,} {'file' if len(several) == 1 else 'files'} "
            "are images of their own (data.pages all)",
            *self.files.about_files(),
        ]

    def fingerprint(self) -> str:
        """Digest of the files, as they are identified without their pages, and of the places of the pages."""
        digest = hashlib.sha256(self.files.fingerprint().encode())
        digest.update(self.table.places.tobytes())
        return f"{len(self)}-{digest.hexdigest()[:16]}"


def with_pages(source: ImageSource, pages: Pages) -> ImageSource:
    """Return a source of all pages if they are wanted and any file has several; UserError if there are no files."""
    if pages == "first":
        return source
    if not isinstance(source, FileSource):
        raise UserError(f"data.pages = {pages}: only image files have pages, and {source.name} has none: omit it")
    table = PageTable(source.paths)
    return source if len(table) == len(source) else PagedSource(source, table)


def open_single_file(file: Path, channels: int | None) -> PagedSource:
    """Open the pages of one file: a stack of a microscope, a scan of many pages, an animation."""
    source = DiskSource(str(file), PathTable(Path(), NameTable([str(file)])), file.parent, {}, channels)
    table = PageTable(source.paths)
    if len(table) == 1:
        raise UserError(f"{shown(file)} is a single image of one page: pass the folder in which it lies")
    return PagedSource(source, table)
