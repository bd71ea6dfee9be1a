"""What a format of an export can do: write an encoder, and read it back with the library that it is for."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

from PIL import Image
from torch import Tensor

from hjepa.errors import UserError
from hjepa.models.frozen import FrozenEncoder

ReloadedNetwork = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps floats in 0..1 [B, C, H, W] to tokens [B, N, D] and pooled features [B, D]."""

ImageProcessor = Callable[[Image.Image], Tensor]
"""The other library's own preprocessing: maps an image to normalised pixels [C, H, W]."""


class Reloaded(NamedTuple):
    """An export, read back by another library."""

    network: ReloadedNetwork
    reader: str  # the library and its version
    processor: ImageProcessor | None = None  # if the library has one of its own


class ExportFormat(ABC):
    """One format that an encoder can be exported to; ``level`` is the number of a level, None is the last block."""

    name: ClassVar[str]
    library: ClassVar[str]  # as the Hugging Face hub calls it in a model card
    any_size: ClassVar[bool]  # takes images of any size, or only of the size of training
    normalises: ClassVar[bool]  # takes floats in 0..1, or normalised ones
    has_levels: ClassVar[bool]  # a single level can be exported

    def refuse_missing_packages(self) -> None:
        """Raise UserError if a package is missing that reads this format back."""
        return

    @abstractmethod
    def write(self, encoder: FrozenEncoder, folder: Path, level: int | None) -> None:
        """Write the files of the export, other than model card and encoder.json, into an empty folder."""

    @abstractmethod
    def reload(self, folder: Path, encoder: FrozenEncoder) -> Reloaded:
        """Read the export with the other library; raises UserError if it does not take every weight.

        ``encoder`` only says how images are preprocessed.
        """

    @abstractmethod
    def note(self, encoder: FrozenEncoder) -> str:
        """Return what users of the other library should know, for the model card."""

    @abstractmethod
    def usage(self, encoder: FrozenEncoder) -> str:
        """Return Python code that turns ``images``, or the file photo.jpg, into features."""


def refuse_other_weights(reader: str, expected: set[str], found: set[str]) -> None:
    """Raise UserError if a library reads other weights than were written."""
    if wrong := sorted(expected ^ found):
        raise UserError(
            f"{reader} does not take these weights ({wrong[0]} is missing or unexpected): nothing was exported; use a "
            "newer version of that library"
        )


def normalised(images: Tensor, encoder: FrozenEncoder) -> Tensor:
    """Normalise floats in 0..1, for libraries that leave this to the caller."""
    return (images - encoder.mean) / encoder.std


def opened_image(encoder: FrozenEncoder) -> str | None:
    """Return Python code that opens an image file upright and in the encoder's channels; None if Pillow cannot."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(len(encoder.mean))
    if mode is None or encoder.value_range is not None:
        return None
    return f'ImageOps.exif_transpose(Image.open("photo.jpg")).convert("{mode}")'


def numbers(encoder: FrozenEncoder, name: str) -> list[float]:
    """Return ``mean`` or ``std`` as encoder.json has it."""
    return [float(value) for value in encoder.card["preprocess"][name]]
