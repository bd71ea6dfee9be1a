"""Colours of more than 8 bits: Pillow keeps eight of them, so other packages read these files where they are there."""

import importlib.util
import re
import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hjepa.data.encoded import ImageFile
from hjepa.data.endings import HEIC_BRANDS, heic_is_supported
from hjepa.data.jpeg_xl import BARE, CONTAINER, read_jpeg_xl_header
from hjepa.errors import UserError

_START = 4096  # bytes of a file in which its header is looked for
_WHITE = 65535
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_BANDS = {2: 3, 4: 2, 6: 4}  # by colour type; grey without alpha is read by Pillow, with all its bits
_PPM_HEADER = re.compile(rb"P6" + 3 * rb"(?:\s+|\s*#[^\n]*\n\s*)+(\d{1,9})" + rb"\s")
_JPEG2000 = b"\0\0\0\x0cjP  \r\n\x87\n"
_SYCC = (18).to_bytes(4, "big")  # value of EnumCS
_HEIC_BANDS = {"RGB;16": 3, "RGBA;16": 4}  # grey is read by Pillow, with all its bits
_AVIF_ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha"
_ORIENTATIONS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda values: np.rot90(values, 2),
    4: np.flipud,
    5: lambda values: values.swapaxes(0, 1),
    6: lambda values: np.rot90(values, -1),
    7: lambda values: np.rot90(values.swapaxes(0, 1), 2),
    8: np.rot90,
}


class DeepColour(NamedTuple):
    """A file of more than 8 bits that has colours or alpha, all of whose bits Pillow would not keep."""

    kind: str  # as Pillow calls the format
    size: tuple[int, int]  # (H, W)
    bands: int  # alpha included
    bits: int  # of each band

    @property
    def alpha(self) -> bool:
        """Return whether the last band is transparency."""
        return self.bands in (2, 4)

    @property
    def readable(self) -> bool:
        """Return whether all bits can be read here."""
        return self.kind in ("PPM", "HEIF") or is_installed("imagecodecs")


def deep_colour(path: ImageFile) -> DeepColour | None:
    """Return what the header of a file of deep colours or alpha says; None for all other files.

    TIFF is looked at elsewhere, and grey without alpha is read by Pillow with all its bits.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except (OSError, UserError):  # the latter of an archive that is damaged at this place
        return None
    if start.startswith(_PNG):
        return _png(start)
    if start.startswith(b"P6"):
        return _ppm(start)
    if start.startswith(_JPEG2000):
        return _jpeg2000(start)
    if start.startswith((BARE, CONTAINER)):
        return _jpeg_xl(path)
    if start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS:
        return _heic(path)
    return _avif(start) if start[4:12] == b"ftypavif" else None


def _png(start: bytes) -> DeepColour | None:
    """ISO/IEC 15948: the header chunk comes first."""
    if len(start) < 26 or start[24] != 16 or start[25] not in _PNG_BANDS:
        return None
    width, height = struct.unpack(">II", start[16:24])
    return DeepColour("PNG", (height, width), _PNG_BANDS[start[25]], 16)


def _ppm(start: bytes) -> DeepColour | None:
    """Netpbm's P6: width, height and the largest value as text, with comments; 16 bits if that is above 255."""
    found = _PPM_HEADER.match(start)
    if found is None or not 255 < int(found[3]) < 65536:
        return None
    return DeepColour("PPM", (int(found[2]), int(found[1])), 3, 16)


def _jpeg2000(start: bytes) -> DeepColour | None:
    """ISO/IEC 15444-1: the boxes ihdr (sizes, bands, bits) and colr (which is 18 for luminance and two differences)."""
    box, colour = start.find(b"ihdr"), start.find(b"colr")
    if box < 0 or len(start) < box + 15:
        return None
    height, width, bands, bits = struct.unpack(">IIHB", start[box + 4 : box + 15])
    differences = colour >= 0 and start[colour + 4 : colour + 5] == b"\1" and start[colour + 7 : colour + 11] == _SYCC
    if not 8 <= bits < 16 or bands not in (2, 3, 4) or differences:  # bits are one less; signed ones have bit 7 set
        return None
    return DeepColour("JPEG2000", (height, width), bands, bits + 1)


def _avif(start: bytes) -> DeepColour | None:
    """AV1 Image File Format: the boxes av1C (bits, grey) and ispe (size); alpha is another picture with its own."""
    box, sizes = start.find(b"av1C"), [found.end() + 4 for found in re.finditer(b"ispe", start)]
    if box < 0 or not sizes or len(start) < max(box + 7, sizes[-1] + 8):
        return None
    high, twelve, grey = (bool(start[box + 6] & bit) for bit in (0x40, 0x20, 0x10))
    if not high:
        return None
    width, height = max(struct.unpack(">II", start[first : first + 8]) for first in sizes)
    bands = (1 if grey else 3) + (_AVIF_ALPHA in start)
    return DeepColour("AVIF", (height, width), bands, 12 if twelve else 10)


def _heic(path: ImageFile) -> DeepColour | None:
    """High Efficiency Image File Format: the package that reads it says what its header says."""
    if not heic_is_supported():
        return None
    import pillow_heif

    try:
        with path.open("rb") as file:
            image = pillow_heif.open_heif(file, convert_hdr_to_8bit=False)
            bands, bits = _HEIC_BANDS.get(image.mode), int(image.info["bit_depth"])
            return None if bands is None else DeepColour("HEIF", image.size[::-1], bands, bits)
    except Exception:  # noqa: BLE001  (damaged, which whoever reads it will say)
        return None


def _jpeg_xl(path: ImageFile) -> DeepColour | None:
    with path.open("rb") as file:
        found = read_jpeg_xl_header(file)
    if found is None or not found.plain:
        return None
    deep = not found.alpha if found.is_float else 8 < found.bits <= 16
    bands = found.colours + found.alpha
    return DeepColour("JXL", found.size, bands, found.bits) if deep and bands > 1 else None


def is_installed(package: str) -> bool:
    """Return whether an optional package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def read_deep_colour(path: ImageFile, deep: DeepColour, channels: int | None, orientation: int) -> np.ndarray:
    """Read all bits: uint16 or float32 [H, W, 1 or 3], or a fourth band with ``channels`` = 4. Raises ValueError.

    White is 65,535 whatever the depth, so that photographs of 10, 12 and 16 bits can lie in one dataset.
    """
    with path.open("rb") as file:
        content = file.read()
    try:
        values = _decoder(deep)(content)
    except Exception as error:  # noqa: BLE001  (the codecs raise exceptions of many kinds)
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from None
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
    elif deep.bits < 16:
        values = _of_16_bits(values, deep.bits)
    upright = oriented(values[..., None] if values.ndim == 2 else values, orientation)
    if upright.shape[-1] in (2, 4) and channels != 4:
        return on_white(upright, _WHITE, premultiplied=False)
    return upright if upright.shape[-1] != 2 else upright[..., :1]


def _of_16_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Spread uint16 of fewer bits over all 16; different values stay different."""
    top = (1 << bits) - 1
    return ((np.minimum(values, top).astype(np.uint32) * _WHITE + top // 2) // top).astype(np.uint16)


def _decoder(deep: DeepColour) -> Callable[[bytes], np.ndarray]:
    if deep.kind == "PPM":
        return _values_of_ppm
    if deep.kind == "HEIF":
        return lambda content: _values_of_heic(content) >> (16 - deep.bits)  # they come with zeros behind them
    import imagecodecs

    decoders: dict[str, Callable[[bytes], np.ndarray]] = {
        "PNG": imagecodecs.png_decode,
        "JPEG2000": imagecodecs.jpeg2k_decode,
        "AVIF": imagecodecs.avif_decode,
        "JXL": imagecodecs.jpegxl_decode,
    }
    return decoders[deep.kind]


def _values_of_heic(content: bytes) -> np.ndarray:
    import pillow_heif

    return np.asarray(pillow_heif.open_heif(content, convert_hdr_to_8bit=False))


def _values_of_ppm(content: bytes) -> np.ndarray:
    found = _PPM_HEADER.match(content)
    if found is None:
        raise ValueError("its header is damaged")
    width, height = int(found[1]), int(found[2])
    if len(content) < found.end() + 6 * width * height:
        raise ValueError("image file is truncated")
    values = np.frombuffer(content, ">u2", 3 * width * height, found.end())
    return values.reshape(height, width, 3).astype(np.uint16)


def on_white(values: np.ndarray, white: int, *, premultiplied: bool) -> np.ndarray:
    """Composite uint16 [H, W, C + alpha] on white, the largest value: [H, W, C]."""
    colours, alpha = values[..., :-1].astype(np.float64), values[..., -1:] / np.float64(white)
    lit = colours if premultiplied else colours * alpha
    return np.rint(np.minimum(lit + white * (1 - alpha), white)).astype(np.uint16)


def oriented(values: np.ndarray, orientation: int) -> np.ndarray:
    """Return [H, W, C] as EXIF's orientation says it is seen."""
    turn = _ORIENTATIONS.get(orientation)
    return values if turn is None else np.ascontiguousarray(turn(values))
