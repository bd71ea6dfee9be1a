"""Images in a .zip or .tar archive, read in place: the archive is listed once, and nothing is ever unpacked."""

import functools
import io
import struct
import tarfile
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np

from hjepa.data.byte_ranges import RangedFile
from hjepa.data.encoded import EncodedImage
from hjepa.data.endings import is_image, left_out_text
from hjepa.data.name_table import NameTable
from hjepa.data.sources.files import FileSource, class_folders, first_outside_folders
from hjepa.errors import UnreadableImage, UserError
from hjepa.files import shown

ARCHIVES = (".zip", ".tar")
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
OUTSIDE = "names that lead out of the archive"
LINKS = "links"
CUT = "no end mark"
_ENCRYPTED = 0x1


class Member(NamedTuple):
    """A file of an archive as its list of contents has it."""

    name: str
    offset: int  # of its bytes in a .tar, of its header in a .zip
    size: int
    stored: int  # bytes it takes in the archive
    deflated: bool = False
    checksum: int = 0  # CRC-32 of a .zip


class MemberList:
    """Members of archives while they are listed: in few objects, for there may be millions."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.columns = array("q")

    def append(self, archive: int, member: Member) -> None:
        """Add a member of the archive of this number."""
        self.names.append(member.name)
        self.columns.extend((archive, *member[1:]))

    def table(self) -> np.ndarray:
        """Return a row for each member: archive, offset, size, stored, deflated, checksum."""
        return np.frombuffer(self.columns, dtype=np.int64).reshape(len(self.names), 6)

    def sort(self) -> None:
        """Put the members into the order of a folder's files, by the parts of their names."""
        keys = [name.replace("/", "\0") for name in self.names]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self.columns = array("q", self.table()[order].tobytes())
        self.names = [self.names[place] for place in order]


class Members:
    """The images of archives by number, in arrays; as a sequence of ``EncodedImage``."""

    def __init__(self, archives: Sequence[Path], listed: MemberList, *, zipped: bool) -> None:
        self.archives = [RangedFile(path) for path in archives]
        self.zipped = zipped
        self.names = NameTable(listed.names)
        self.table = listed.table()

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> EncodedImage:
        archive = self.archives[self.table[index, 0]].path
        return EncodedImage(f"{archive}/{self.names[index]}", functools.partial(self.open, index))

    def __iter__(self) -> Iterator[EncodedImage]:
        return (self[index] for index in range(len(self)))

    def open(self, index: int) -> BinaryIO:
        """Open an image of the archive; raises UnreadableImage if its place in the archive is damaged."""
        number, offset, size, stored, deflated, checksum = self.table[index].tolist()
        archive, name = self.archives[number], str(self[index])
        if self.zipped:
            offset = _after_local_header(archive, name, offset)
        if not deflated:
            return archive.window(name, offset, stored)
        try:
            content = zlib.decompress(archive.read(offset, stored), -zlib.MAX_WBITS)
        except zlib.error:
            content = b""
        if len(content) != size or zlib.crc32(content) != checksum:
            raise _damaged(name)
        return io.BytesIO(content)


class ArchiveSource(FileSource):
    """The images of an archive in the order of their names, as in the folder that it was made from.

    Class folders are labels, as in a folder; one folder around everything does not count.
    """

    unlabelled = "put the images into one folder per class before they are packed"

    def __init__(
        self, name: str, members: Members, left_out: Counter[str], labels: dict[str, np.ndarray], wanted: int | None
    ) -> None:
        super().__init__(name, members, labels, wanted)
        self.members, self.left_out = members, left_out

    def about_files(self) -> list[str]:
        """Return what the user should know of the files beside the images."""
        said, rest = [], self.left_out.copy()
        for kind in (OUTSIDE, LINKS):
            if count := rest.pop(kind, 0):
                said.append(f"{count:,} members of {self.name} left out: {kind}")
        if rest.pop(CUT, 0):
            said.append(f"{self.name} has no end mark, so it may be cut short: compare its size with the original's")
        return [*said, *left_out_text(rest)]

    def names_and_sizes(self) -> Iterator[tuple[str, int]]:
        """Yield the name of each member and the size of its file."""
        yield from zip(self.members.names, self.members.table[:, 2].tolist(), strict=True)


def open_archive(file: Path, wanted: int | None = None) -> ArchiveSource:
    """Open a .zip or an uncompressed .tar; raises UserError if it is damaged, encrypted or has no images."""
    zipped = file.suffix.lower() == ".zip"
    left_out: Counter[str] = Counter()
    files = RangedFile(file)
    listed = zip_members(file, left_out) if zipped else tar_members(file, left_out)
    images = MemberList()
    for member in listed:
        if is_image(probe(files, member, zipped)):
            images.append(0, member)
        else:
            left_out[shown(PurePosixPath(member.name).suffix.lower())] += 1
    refuse_empty(file, len(images.names), left_out)
    images.sort()
    members = Members([file], images, zipped=zipped)
    depth = _wrapping_folders(members.names)
    classes, labels = class_folders(members.names, depth)
    source = ArchiveSource(str(file), members, left_out, labels, wanted)
    source.classes = classes
    if not labels and (bare := first_outside_folders(members.names)) is not None:
        source.unlabelled = f"put {shown(bare)} into a class folder, like the other images, and pack them again"
    if not labels and left_out[".cls"]:
        source.unlabelled = f"use wds:{file} for the classes in its .cls files"
    return source


def refuse_compressed_tar(file: Path) -> None:
    """Raise UserError for a compressed .tar, whose members can only be read one after another."""
    if file.name.lower().endswith(COMPRESSED_TARS):
        raise UserError(
            f"{shown(file)} is a compressed .tar, of which single images cannot be read: unpack it into a folder "
            f"(tar -xf {shown(file.name)}), or decompress it into a .tar"
        )


def refuse_empty(name: Path | str, images: int, left_out: Counter[str]) -> None:
    """Raise UserError if there are no images."""
    if not images:
        others = ", ".join(f"{count:,} {ending or 'without an ending'}" for ending, count in left_out.most_common(6))
        raise UserError(f"{shown(str(name))} contains no images ({others or 'it is empty'}): pack images into it")


def zip_members(file: Path, left_out: Counter[str]) -> Iterator[Member]:
    """Yield the files of a .zip archive; raises UserError for one that cannot be read in place."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error):
        raise UserError(f"{shown(file)} cannot be read as a .zip archive: it is damaged, copy it again") from None
    for info in infos:
        name = info.filename.replace("\\", "/")  # as some programs on Windows write it
        if info.is_dir() or not _is_inside(name, left_out):
            continue
        if (info.external_attr >> 16) & 0o170000 == 0o120000:
            left_out[LINKS] += 1
            continue
        if info.flag_bits & _ENCRYPTED:
            raise UserError(f"{shown(file)} is encrypted ({shown(info.filename)}): pack the images without a password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            method = {12: "bzip2", 14: "LZMA"}.get(info.compress_type, f"method {info.compress_type}")
            raise UserError(
                f"{shown(file)} is compressed by {method} ({shown(info.filename)}): pack it again with deflate, or "
                "without compression (zip -0)"
            )
        deflated = info.compress_type == zipfile.ZIP_DEFLATED
        yield Member(_short(name), info.header_offset, info.file_size, info.compress_size, deflated, info.CRC)


def tar_members(file: Path, left_out: Counter[str]) -> Iterator[Member]:
    """Yield the files of an uncompressed .tar archive; raises UserError for one that is damaged."""
    try:
        with tarfile.open(file, "r:") as archive:
            for info in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # or else it keeps them all
                name = info.name
                if info.issym() or info.islnk():
                    left_out[LINKS] += 1
                elif info.isreg() and not info.issparse() and _is_inside(name, left_out):
                    yield Member(_short(name), info.offset_data, info.size, info.size)
            if file.stat().st_size < archive.offset + tarfile.BLOCKSIZE:
                left_out[CUT] += 1
    except (tarfile.TarError, EOFError, ValueError):
        with file.open("rb") as opened:
            start = opened.read(6)
        if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")):
            refuse_compressed_tar(file.with_name(f"{file.name}.gz"))
        raise UserError(f"{shown(file)} cannot be read as a .tar archive: it is damaged, copy it again") from None


def _is_inside(name: str, left_out: Counter[str]) -> bool:
    """Return whether a name lies within the archive and is not hidden."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        left_out[OUTSIDE] += 1
        return False
    return not any((part.startswith(".") and part != ".") or part == "__MACOSX" for part in parts)


def _short(name: str) -> str:
    """Return a name without ``./`` and double slashes."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def probe(archive: RangedFile, member: Member, zipped: bool) -> EncodedImage:
    """Return a member of which only the beginning is read, to see what it is."""

    def begin() -> BinaryIO:
        if not zipped:
            return io.BytesIO(archive.read(member.offset, min(member.size, 32)))
        raw = archive.read(_after_local_header(archive, member.name, member.offset), min(member.stored, 4096))
        return io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, 32) if member.deflated else raw[:32])

    return EncodedImage(member.name, _damage_is_an_os_error(begin))


def _damage_is_an_os_error(begin: Callable[[], BinaryIO]) -> Callable[[], BinaryIO]:
    def opened() -> BinaryIO:
        try:
            return begin()
        except (zlib.error, UnreadableImage) as error:
            raise OSError(str(error)) from None

    return opened


def _after_local_header(archive: RangedFile, name: str, offset: int) -> int:
    """Return where the bytes of a .zip member begin: its own header repeats names of another length."""
    header = archive.read(offset, 30)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise _damaged(name)
    name_size, extra_size = struct.unpack("<HH", header[26:30])
    return offset + 30 + int(name_size) + int(extra_size)


def _damaged(name: str) -> UnreadableImage:
    return UnreadableImage(f"{shown(name)}: the archive is damaged here; exclude the image, or pack it again")


def _wrapping_folders(names: NameTable) -> int:
    """Return 1 if one folder lies around all images and has folders of its own, as ``zip -r x.zip photos`` makes."""
    first = names[0].split("/")[0]
    inside = all(name.startswith(f"{first}/") for name in names)
    return int(inside and any(name.count("/") > 1 for name in names))
