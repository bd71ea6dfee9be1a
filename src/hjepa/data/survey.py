"""What the headers of a folder's files say, taken together: channels, depth, sizes."""

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from hjepa.data.decode import Header, read_header
from hjepa.data.encoded import ImageFile
from hjepa.errors import UserError
from hjepa.files import shown
from hjepa.randomness import generator

MAX_HEADERS = 10_000  # read all headers up to here, and a random sample of this size beyond


class Files(Protocol):
    """Image files by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ImageFile: ...


class Survey:
    """The headers of all files, or of a random sample of very many; unreadable ones do not count."""

    def __init__(self, found: Iterable[tuple[int, ImageFile, Header | None]]) -> None:
        readable = [(index, path, header) for index, path, header in found if header is not None]
        self.read = [(path, header) for _, path, header in readable]
        self.deep_images = [index for index, _, header in readable if header.deep]
        self.bands = Counter(header.channels for _, header in self.read)
        self.cut = sum(header.cut for _, header in self.read)
        self.stacks = sum(header.pages > 1 for _, header in self.read)
        self.pages = sum(header.pages for _, header in self.read if header.pages > 1)
        self.alpha = sum(header.alpha for _, header in self.read)

    @classmethod
    def of(cls, paths: Files, wanted: int | None = None) -> "Survey":
        """Read the headers; ``wanted`` is data.channels if it was set."""
        return cls((index, paths[index], read_header(paths[index], wanted)) for index in headers_read(len(paths)))

    @property
    def channels(self) -> int:
        """Return the channels that hold all files, 3 if any is in colour; UserError for bands that cannot be mixed."""
        kinds = set(self.bands)
        if kinds - {1} <= {3, 4} and len(kinds - {1}) == 2:
            return 3  # the fourth band is left out where there is one
        if len(kinds - {1}) > 1:
            first, second = sorted(kinds - {1})[:2]
            example = next(path for path, header in self.read if header.channels == second)
            raise UserError(
                f"images of {first} and of {second} bands are mixed (such as {shown(example)}): "
                "put those of one kind into a folder of their own"
            )
        return max(kinds, default=3)

    def notices(self, channels: int | None) -> list[str]:
        """Return what the user should know; ``channels`` is data.channels if it was set."""
        said, result = [], channels or self.channels
        colours = sum(count for bands, count in self.bands.items() if bands > 1)
        if self.bands[1] and colours:
            said.append(f"grey and colour images mixed: {result} channels ({self.bands[1]:,} grey, {colours:,} colour)")
        if self.bands[3] and self.bands[4] and result == 3:
            said.append(f"images of 3 and 4 bands mixed: 3 channels, the fourth band of {self.bands[4]:,} is left out")
        if self.alpha and channels != 4:
            said.append(
                f"{self.alpha:,} of {len(self.read):,} images have an alpha channel, which is composited on white: "
                "use --data.channels 4 if it is a fourth band"
            )
        if self.stacks:
            said.append(
                f"{self.stacks:,} of {len(self.read):,} files have several pages or frames ({self.pages:,} in all), "
                "of which the first is used: --data.pages all makes each of them an image"
            )
        if self.cut:
            said.append(
                f"{self.cut:,} of {len(self.read):,} images have more than 8 bits per colour, of which 8 are kept: "
                "pip install 'hjepa[tiff]' to keep them all"
            )
        if 0 < len(self.deep_images) < len(self.read):
            said.append(
                f"{len(self.deep_images):,} of {len(self.read):,} images have more than 8 bits: data.value_range is "
                "for these, the others are divided by 255"
            )
        return said

    def short_sides(self) -> list[int]:
        """Return the shorter side of each image."""
        return [min(header.size) for _, header in self.read]


def headers_read(length: int) -> list[int]:
    """Return of which files the headers are read."""
    return sample_of(length, MAX_HEADERS, "headers")


def sample_of(length: int, size: int, what: str) -> list[int]:
    """Return all indices, or a random sample in ascending order, which is always the same for ``what``."""
    if length <= size:
        return list(range(length))
    chosen = generator(0, what, length).choice(length, size, replace=False)
    return np.sort(chosen).tolist()
