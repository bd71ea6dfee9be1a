"""Colours of 16 bits: Pillow keeps eight of them, so other packages read these files where they are installed."""

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hjepa.data.encoded import ImageFile
from hjepa.errors import UserError

WHITE = 65535
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_ALPHA, _COLOUR_ALPHA = 4, 6  # colour types of PNG
_BANDS = {2: 3, _GREY_ALPHA: 2, _COLOUR_ALPHA: 4}  # grey without alpha is read by Pillow, with all its bits
_ORIENTATIONS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda values: np.rot90(values, 2),
    4: np.flipud,
    5: lambda values: values.swapaxes(0, 1),
    6: lambda values: np.rot90(values, -1),
    7: lambda values: np.rot90(values.swapaxes(0, 1), 2),
    8: np.rot90,
}


class DeepPng(NamedTuple):
    """A PNG file of 16 bits that has colours or alpha."""

    size: tuple[int, int]  # (H, W)
    bands: int  # alpha included

    @property
    def alpha(self) -> bool:
        """Return whether the last band is transparency."""
        return self.bands in (2, 4)


def deep_png(path: ImageFile) -> DeepPng | None:
    """Return what the header of a PNG file of 16-bit colours or alpha says; None for all other files."""
    try:
        with path.open("rb") as file:
            start = file.read(26)
    except (OSError, UserError):  # the latter of an archive that is damaged at this place
        return None
    if len(start) < 26 or not start.startswith(_SIGNATURE) or start[24] != 16 or start[25] not in _BANDS:
        return None
    width, height = (int.from_bytes(start[first : first + 4], "big") for first in (16, 20))
    return DeepPng((height, width), _BANDS[start[25]])


def is_installed(package: str) -> bool:
    """Return whether an optional package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def read_deep_png(path: ImageFile, channels: int | None, orientation: int) -> np.ndarray:
    """Read all bits: uint16 [H, W, 1 or 3]; with ``channels`` = 4 a fourth band is kept. Raises ValueError."""
    import imagecodecs

    try:
        with path.open("rb") as file:
            values = imagecodecs.png_decode(file.read())
    except Exception as error:  # noqa: BLE001  (its codecs raise exceptions of many kinds)
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from None
    upright = oriented(values, orientation)
    if upright.shape[-1] in (2, 4) and channels != 4:
        return on_white(upright, premultiplied=False)
    return upright if upright.shape[-1] != 2 else upright[..., :1]


def on_white(values: np.ndarray, *, premultiplied: bool) -> np.ndarray:
    """Composite uint16 [H, W, C + alpha] on white: [H, W, C]."""
    colours, alpha = values[..., :-1].astype(np.float64), values[..., -1:] / np.float64(WHITE)
    lit = colours if premultiplied else colours * alpha
    return np.rint(np.minimum(lit + WHITE * (1 - alpha), WHITE)).astype(np.uint16)


def oriented(values: np.ndarray, orientation: int) -> np.ndarray:
    """Return [H, W, C] as EXIF's orientation says it is seen."""
    turn = _ORIENTATIONS.get(orientation)
    return values if turn is None else np.ascontiguousarray(turn(values))
