"""Images that cannot be read: each is skipped, named once and counted; too many of them end a run."""

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from hjepa.errors import UnreadableImage, UserError
from hjepa.randomness import generator

RANDOM_TRIES = 64  # random images that may take the place of an unreadable one; after them, the next ones in order


class BadImage(NamedTuple):
    """An image that could not be read."""

    number: int  # in its source
    name: str
    problem: str  # such as "cannot decode the image (not an image file)"

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}"


class TooManyBadImages(UserError):
    """More images are unreadable than ``data.max_bad`` allows; ``images`` are those."""

    def __init__(self, message: str, images: tuple[BadImage, ...] = ()) -> None:
        super().__init__(message)
        self.images = images


class BadImages:
    """The unreadable images met so far in a source of ``images`` images, in the order in which they were met.

    At most the fraction ``max_bad`` of all images may be unreadable. ``removed`` are unreadable files that have
    been removed since: they are skipped without being counted.
    """

    def __init__(self, images: int, max_bad: float, removed: Collection[int] = ()) -> None:
        self.images, self.max_bad, self.removed = images, max_bad, frozenset(removed)
        self._found: dict[int, BadImage] = {}

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[BadImage]:
        return iter(self._found.values())

    def since(self, count: int) -> list[BadImage]:
        """Return the images met after the first ``count``."""
        return list(itertools.islice(self._found.values(), count, None))

    def add(self, bad: Iterable[BadImage]) -> None:
        """Count images; each counts once."""
        for image in bad:
            if image.number not in self.removed:
                self._found.setdefault(image.number, image)

    def forget(self) -> None:
        """Forget what was met before training: what a run counts is a function of its steps."""
        self._found.clear()

    def refuse_too_many(self) -> None:
        """Raise TooManyBadImages if more than ``max_bad`` of all images are unreadable."""
        count = len(self._found)
        if count <= self.max_bad * self.images:
            return
        first = next(iter(self))
        share = min((s for s in (2, 5, 10, 20, 50, 100) if s >= 200 * count / self.images), default=100)
        raise TooManyBadImages(
            f"{first}; {count:,} of {self.images:,} images cannot be read, more than data.max_bad = "
            f"{percent(self.max_bad)}: replace {'it' if count == 1 else 'them'}, or allow more with "
            f"--data.max_bad {share}%",
            tuple(self),
        )


def replacements(seed: int, images: int, attempt: int, row: int) -> Iterator[int]:
    """Yield the images that may take the place of an unreadable one in a row of the batch of an attempt."""
    random = generator(seed, "replacement", attempt, row).integers(0, images, RANDOM_TRIES).tolist()
    yield from random
    yield from ((random[-1] + step) % images for step in range(1, images + 1))


def problem_of(error: UnreadableImage, name: str) -> str:
    """Return what is wrong with an image, without its name and without advice."""
    return error.problem or str(error).removeprefix(f"{name}: ")


def percent(fraction: float) -> str:
    """Format a fraction for people: 0.01 is 1 %."""
    return f"{100 * fraction:g} %"
