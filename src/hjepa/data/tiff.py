"""TIFF files of more bands, or of deeper ones, than Pillow reads: microscopes and satellites."""

import logging
import math
import os
from typing import NamedTuple

import numpy as np
from PIL import TiffImagePlugin

from hjepa.data.deep_colour import is_installed, on_white, oriented
from hjepa.data.encoded import ImageFile
from hjepa.errors import UnreadableImage
from hjepa.files import shown

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_RGB, _CMYK, _YCBCR, _LAB = 2, 5, 6, 8  # values of PhotometricInterpretation
_PREMULTIPLIED = 1
_ALPHA = frozenset({_PREMULTIPLIED, 2})  # values of ExtraSamples that mean transparency
# A file that claims more bytes of pixels than this is damaged: pixels that are not there would be filled with zeros.
_MOST_COMPRESSED, _ANY_FILE = 2000, 1 << 28


class TiffHeader(NamedTuple):
    """What the header of a TIFF file says of its first page."""

    size: tuple[int, int]  # (H, W)
    bands: int
    bits: int  # of each band
    is_float: bool
    photometric: int
    extra: tuple[int, ...]  # what the bands beyond the colours are; empty if the file does not say
    orientation: int = 1  # as EXIF counts

    @property
    def alpha(self) -> bool:
        """Return whether the file says that a band is transparency."""
        return bool(self.extra) and self.extra[0] in _ALPHA

    @property
    def deep(self) -> bool:
        """Return whether a value takes more than 8 bits."""
        return self.bits > 8

    @property
    def colours_first(self) -> bool:
        """Return whether the first three bands are red, green and blue."""
        return self.photometric == _RGB and self.bands >= 3

    def beyond_pillow(self, channels: int | None) -> bool:
        """Return whether Pillow would refuse the file or lose bands or bits of it; ``channels`` are those wanted."""
        if self.bands == 1 or self.photometric in (_CMYK, _YCBCR, _LAB):
            return False
        if self.colours_first and not self.is_float and self.bits <= 16 and self.bands <= 4:
            if self.deep and is_installed("tifffile"):
                return True  # Pillow reads 16 bits of three colours as 8
            if self.bands == 3 or channels in (1, 3):
                return False
            keeps_bits = self.bits == 8 or (self.alpha and channels is None)
            return not keeps_bits or 0 in self.extra  # Pillow drops a fourth band that the file calls unspecified
        if self.bands == 2 and not self.alpha and channels not in (1, 3):
            return True  # Pillow drops the second one
        return self.bands > 4 or self.deep

    @property
    def cut(self) -> bool:
        """Return whether Pillow keeps eight bits of deeper colours, for want of another package."""
        return self.deep and self.colours_first and not self.is_float and not is_installed("tifffile")

    def result(self, channels: int | None) -> tuple[int, bool]:
        """Return how many bands of the file are kept, and whether alpha is composited on white."""
        if self.colours_first and self.bands == 4 and self.deep and channels != 4:
            if self.alpha and not self.is_float:
                return 3, True
            if channels in (1, 3):
                return 3, False
        return self.bands, False

    def __str__(self) -> str:
        kind = f"{'float' if self.is_float else ''}{self.bits}"
        return f"a TIFF of {self.bands} bands of {kind}{'' if self.is_float else ' bits'}"


def tiff_header(path: ImageFile) -> TiffHeader | None:
    """Read the header of a TIFF file; None if it is not one, or damaged."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            if start[:4] not in _MAGIC:
                return None
            if b"+" in start[:4]:
                start += file.read(8)
            tags = TiffImagePlugin.ImageFileDirectory_v2(start)
            file.seek(tags.next)
            tags.load(file)
        bits, formats = _numbers(tags.get(258, 1)), _numbers(tags.get(339, 1))
        header = TiffHeader(
            size=(int(tags[257]), int(tags[256])),
            bands=int(tags.get(277, 1)),
            bits=int(max(bits)),
            is_float=3 in formats,
            photometric=int(tags.get(262, 1)),
            extra=_numbers(tags.get(338, ())),
            orientation=int(tags.get(274, 1)),
        )
        return header if min(*header.size, header.bands, header.bits) > 0 else None
    except Exception:  # noqa: BLE001  (a hostile header: whoever reads the image reports what is wrong with it)
        return None


def refuse_empty_promises(path: ImageFile, header: TiffHeader) -> None:
    """Raise UnreadableImage for a header that claims far more pixels than its file can hold."""
    claimed = header.size[0] * header.size[1] * header.bands * header.bits // 8
    if claimed <= _ANY_FILE:
        return
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
    if claimed > _MOST_COMPRESSED * size + _ANY_FILE:
        problem = f"cannot decode {header} (its header claims {claimed:.1e} bytes of pixels in a file of {size:,})"
        raise UnreadableImage(f"{shown(path)}: {problem}; exclude or replace it", problem)


def read_bands(path: ImageFile, header: TiffHeader, channels: int | None = None) -> np.ndarray:
    """Read the bands of the first page: [H, W, C] of uint8, uint16 or float32. Raises UnreadableImage in one line.

    ``channels`` are those wanted: alpha of deep colours is composited on white unless they are 4.
    """
    try:
        import tifffile
    except ImportError:
        raise UnreadableImage(
            f"{shown(path)} is {header}, which Pillow cannot read: pip install 'hjepa[tiff]', or convert it"
        ) from None
    # Without a handler, its remarks on each damaged tag would be printed; what is wrong is said below, in one line.
    if not (log := logging.getLogger("tifffile")).handlers:
        log.addHandler(logging.NullHandler())
    try:
        with path.open("rb") as opened, tifffile.TiffFile(opened) as file:
            page = file.pages[0]
            parts = math.prod(page.chunked)
            if not page.is_contiguous and len(page.dataoffsets) < parts:  # the others would be filled with zeros
                raise ValueError(f"{len(page.dataoffsets)} of its {parts} strips or tiles are in the file")
            values, axes = page.asarray(), page.axes
    except Exception as error:  # noqa: BLE001  (tifffile and its codecs raise exceptions of many kinds)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        problem = f"cannot decode {header} ({reason})"
        raise UnreadableImage(f"{shown(path)}: {problem}; exclude or replace it", problem) from None
    if values.dtype.kind == "c":
        raise UnreadableImage(f"{shown(path)} holds complex numbers: convert it to their magnitudes")
    if not values.size:
        problem = f"cannot decode {header} (it has no pixels)"
        raise UnreadableImage(f"{shown(path)}: {problem}; exclude or replace it", problem)
    if values.ndim == 2:
        values = values[..., None]
    elif axes.startswith("S"):  # one plane for each band
        values = np.moveaxis(values, 0, -1)
    if values.ndim != 3:
        raise UnreadableImage(
            f"{shown(path)} has {values.ndim} axes ({axes}): convert it to images of height, width, bands"
        )
    values = oriented(native(values), header.orientation)
    kept, alpha = header.result(channels)
    if alpha and values.dtype == np.uint16:
        return on_white(values, (1 << header.bits) - 1, premultiplied=header.extra[0] == _PREMULTIPLIED)
    return values[..., :kept]


def native(values: np.ndarray) -> np.ndarray:
    """Return values as uint8 or uint16 where they are, otherwise as float32."""
    if values.dtype == np.uint8:
        return values
    return values.astype(np.uint16 if values.dtype.kind == "u" and values.dtype.itemsize == 2 else np.float32)


def _numbers(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)
