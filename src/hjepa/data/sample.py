"""A random sample of the images of a source, always the same."""

import contextlib
from collections.abc import Iterable, Iterator

from torch import Tensor

from hjepa.data.augment import ResizeToInput
from hjepa.data.loader import Images, resized
from hjepa.data.sources import ImageSource
from hjepa.data.survey import sample_of
from hjepa.errors import UserError


def sampled_images(source: ImageSource, resize: ResizeToInput, size: int, what: str) -> Iterator[Tensor]:
    """Yield up to ``size`` images [1, C, H, W], uint8 or float32 in 0..1, resized to the encoder's input.

    Which ones follows from ``what`` and the length of the source. Unreadable images are left out: whoever needs them
    reports them.
    """
    for _, image in sampled_by_number(source, sample_of(len(source), size, what), resize):
        yield image


def sampled_by_number(
    source: ImageSource, numbers: Iterable[int], resize: ResizeToInput, images: Images | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Yield those images of ``numbers`` that can be read, each with its number.

    ``images`` are those of ``source``, read as small as training reads them.
    """
    for index in numbers:
        with contextlib.suppress(UserError):
            yield index, resized(source, [index], resize, images=images)
