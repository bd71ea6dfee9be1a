"""Shards of WebDataset: .tar archives in which the files of a sample share a name, read in place by an index.

WebDataset streams its shards in an order that depends on the number of workers, and cannot begin in the middle. Here
the shards are listed once, so that a sample has a number like any other image: order and exact resuming are those of a
folder.
"""

import glob
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hjepa.data.byte_ranges import RangedFile
from hjepa.data.endings import ENDINGS, is_image
from hjepa.data.sources.archives import (
    ArchiveSource,
    Member,
    MemberList,
    Members,
    probe,
    refuse_compressed_tar,
    refuse_empty,
    tar_members,
)  # fmt: skip
from hjepa.data.sources.protocol import number_classes
from hjepa.errors import UserError
from hjepa.files import shown

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LABEL = ".cls"


def open_shards(pattern: str, wanted: int | None = None) -> ArchiveSource:
    """Open ``shard-{000..099}.tar``, or a pattern with * and ?: one image of each sample, labelled by its .cls file."""
    shards = shard_files(pattern)
    left_out: Counter[str] = Counter()
    images = MemberList()
    labels: list[str | None] = []
    for number, shard in enumerate(shards):
        for image, label in _samples(shard, left_out):
            images.append(number, image)
            labels.append(label)
    refuse_empty(f"wds:{pattern}", len(images.names), left_out)
    classes, numbered = number_classes(labels)
    source = ArchiveSource(f"wds:{pattern}", Members(shards, images, zipped=False), left_out, numbered, wanted)
    source.classes, source.unlabelled = classes, "add a .cls file with the class to every sample"
    return source


def shard_files(pattern: str) -> list[Path]:
    """Return the shards that a pattern names; raises UserError if one is missing or does not lie on this machine."""
    if re.match(r"[a-z0-9]+:", pattern):
        raise UserError(
            f"wds:{pattern}: shards are read from the disk, where each image can be found again after a restart: "
            "download them first, and give their path"
        )
    files = []
    for name in _expanded(str(Path(pattern).expanduser())):
        is_pattern = glob.has_magic(name) and not Path(name).exists()
        found = sorted(glob.glob(name)) if is_pattern else [name]  # noqa: PTH207  (an absolute pattern)
        files += [Path(each) for each in found]
    if not files:
        raise UserError(f"wds:{pattern} matches no file: check the pattern")
    for file in files:
        refuse_compressed_tar(file)
        if not file.is_file():
            raise UserError(f"wds:{pattern}: {shown(file)} does not exist; correct the pattern")
    return files


def _expanded(pattern: str) -> Iterator[str]:
    """Yield the names of ``a{000..099}b``; the zeros in front say how many digits each number has."""
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    first, last = found.groups()
    if int(last) < int(first):
        raise UserError(f"wds:{pattern}: {found.group()} counts down; write {{{last}..{first}}}")
    for number in range(int(first), int(last) + 1):
        digits = str(number).zfill(len(first))
        yield from _expanded(pattern[: found.start()] + digits + pattern[found.end() :])


def _samples(shard: Path, left_out: Counter[str]) -> Iterator[tuple[Member, str | None]]:
    """Yield each sample's image and class, in the order of the shard; files of a sample follow one another."""
    file = RangedFile(shard)
    key, image, label = None, None, None
    for member in tar_members(shard, left_out):
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        ending = f".{ending.lower()}"
        if (folder, stem) != key:
            if image is not None:
                yield image, label
            key, image, label = (folder, stem), None, None
        if ending == _LABEL:
            label = file.read(member.offset, member.size).decode("utf-8", "replace").strip()
        elif image is None and _shows_something(file, member, ending):
            image = member
        else:
            left_out[ending] += 1
    if image is not None:
        yield image, label


def _shows_something(file: RangedFile, member: Member, ending: str) -> bool:
    """Return whether a member is an image: by its last ending, which may follow others, or by its first bytes."""
    return f".{ending.rpartition('.')[2]}" in ENDINGS or is_image(probe(file, member, zipped=False))
