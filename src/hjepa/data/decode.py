"""From a file to pixels: [H, W, C] with one channel for grey images, three for colour, and more for more bands."""

import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hjepa.data.deep_colour import deep_colour, read_deep_colour
from hjepa.data.encoded import ImageFile, held
from hjepa.data.endings import reader_missing
from hjepa.data.pages import Page, number_of_pages
from hjepa.data.reduce import Reduction, decode_smaller, reduce_image, reduce_pixels
from hjepa.data.tiff import native, read_bands, refuse_empty_promises, tiff_header
from hjepa.errors import UnreadableImage, UserError
from hjepa.files import shown

DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
GREY_MODES = frozenset({"1", "L", "LA"}) | DEEP_MODES

# What Pillow raises on files that are cut short, mislabelled or hostile; RuntimeError is that of AVIF and JPEG XL.
_DAMAGE = (
    UnidentifiedImageError, OSError, EOFError, SyntaxError, ValueError, TypeError, KeyError, IndexError,
    struct.error, MemoryError, RuntimeError, OverflowError,
    Image.DecompressionBombError,
)  # fmt: skip
ORIENTATION = 0x0112  # tag of EXIF
_OPENING = threading.RLock()  # one image may be opened while another one is


class Header(NamedTuple):
    """What the header of an image file says."""

    size: tuple[int, int]  # (H, W) before the orientation of EXIF
    channels: int
    deep: bool  # more than 8 bits are kept
    alpha: bool
    cut: bool = False  # the file has more than 8 bits of its colours, of which 8 are kept
    pages: int = 1  # of the file


def read_image(path: ImageFile, channels: int | None = None, reduction: Reduction | None = None) -> np.ndarray:
    """Read an image with its EXIF orientation applied: [H, W, 1] if greyscale, [H, W, 3] if colour, or all its bands.

    Pixels are uint8; those of 16-bit and float images are uint16 or float32, as in the file. Transparent images are
    composited on white, unless ``channels`` is 4: then the fourth band is kept.
    ``reduction`` says how much smaller the image may be read; without it every pixel of the file is there.
    Raises UnreadableImage with the file's name if it cannot be decoded completely.
    """
    try:
        return _read(path, channels, reduction)
    except MemoryError:
        problem = "cannot decode the image (it needs more memory than there is)"
        raise UnreadableImage(f"{shown(path)}: {problem}; exclude or replace it", problem) from None


def _read(path: ImageFile, channels: int | None, reduction: Reduction | None) -> np.ndarray:
    path = path.held() if isinstance(path, Page) else held(path)  # it is opened several times below
    tiff = tiff_header(path)
    if tiff is not None:
        refuse_empty_promises(path, tiff)
    if tiff is not None and tiff.beyond_pillow(channels):
        return _reduced(read_bands(path, tiff, channels), reduction)
    try:
        with opened(path) as file:
            factor = 1 if reduction is None else reduction.factor(file.height, file.width)
            deep = None if isinstance(path, Page) else deep_colour(path)
            if deep is not None and deep.readable:
                orientation = int(file.getexif().get(ORIENTATION, 1))
                return reduce_pixels(read_deep_colour(path, deep, channels, orientation), factor)
            factor //= decode_smaller(file, factor)
            image = ImageOps.exif_transpose(file)
            image.load()
    except FileNotFoundError:
        raise UnreadableImage(f"{shown(path)} does not exist: check the path", "the file is gone") from None
    except UserError:  # of an archive that is damaged at this place
        raise
    except _DAMAGE as error:
        if tiff is not None and isinstance(error, UnidentifiedImageError):
            return _reduced(read_bands(path, tiff, channels), reduction)
        problem = f"cannot decode the image ({_reason(error, path)})"
        raise UnreadableImage(f"{shown(path)}: {problem}; exclude or replace it", problem) from None
    if tiff is not None and tiff.bands == 4 and tiff.colours_first and not tiff.alpha and image.mode == "RGBA":
        bands = reduce_pixels(np.asarray(image), factor)  # Pillow calls transparency what the file does not
        return bands if channels in (None, 4) else bands[..., :3]
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return pil_pixels(reduce_image(image, factor), channels)
    return reduce_pixels(pil_pixels(image, channels), factor)


def _reduced(pixels: np.ndarray, reduction: Reduction | None) -> np.ndarray:
    return pixels if reduction is None else reduce_pixels(pixels, reduction.factor(*pixels.shape[:2]))


def read_header(path: ImageFile, channels: int | None = None) -> Header | None:
    """Return what ``read_image`` will return, from the header alone; None if that cannot be read."""
    header = _header(path, channels)
    if header is not None and isinstance(path, Page) and path.frame and header.channels == 1:
        return header._replace(channels=3)  # the frames of an animation may have palettes of their own
    return header if header is None else header._replace(pages=number_of_pages(path))


def _header(path: ImageFile, channels: int | None) -> Header | None:
    tiff = tiff_header(path)
    if tiff is not None and (
        tiff.beyond_pillow(channels) or (tiff.bands == 4 and tiff.colours_first and not tiff.alpha)
    ):
        kept, alpha = tiff.result(channels) if tiff.beyond_pillow(channels) else (tiff.bands, False)
        return Header(tiff.size, kept, tiff.deep and not tiff.cut, alpha, tiff.cut)
    deep = None if isinstance(path, Page) else deep_colour(path)
    if deep is not None:
        return Header(deep.size, 1 if deep.bands < 3 else 3, deep.readable, deep.alpha, cut=not deep.readable)
    try:
        with opened(path) as file:
            return header_of(file)._replace(cut=tiff is not None and tiff.cut)
    except _DAMAGE:
        return None if tiff is None else Header(tiff.size, tiff.bands, tiff.deep, alpha=False)


def header_of(file: Image.Image) -> Header:
    """Return the header of an image that Pillow has opened."""
    alpha = file.mode in ("LA", "RGBA", "PA") or "transparency" in file.info
    size = (file.height, file.width)
    return Header(size, 1 if file.mode in GREY_MODES else 3, file.mode in DEEP_MODES, alpha)


@contextmanager
def opened(path: ImageFile) -> Iterator[Image.Image]:
    """Open an image of the user's own: of any size, and without Pillow's warnings."""
    # Both settings belong to the whole process, so they are changed for the moment of opening and by one thread only;
    # for an image beyond the limit until it is closed, because Pillow looks again when it decodes a TIFF.
    with ExitStack() as held_open:
        file = path if isinstance(path, Path) else held_open.enter_context(path.open())
        with _without_limit():
            image = held_open.enter_context(_open(path, file))
        if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            held_open.enter_context(_without_limit())
        if isinstance(path, Page) and path.frame:
            image.seek(path.frame)
        yield image


@contextmanager
def _without_limit() -> Iterator[None]:
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _open(path: ImageFile, file: Path | BinaryIO) -> Image.Image:
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if missing := reader_missing(path):
            raise ValueError(missing) from None
        return Image.open(file)


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Convert [..., H, W, C] to ``channels``: greyscale is repeated, colour is converted to luminance.

    Luminance weights are those of ITU-R BT.601, as in Pillow's mode "L".
    """
    have = image.shape[-1]
    if have == channels:
        return image
    if have == 1:
        return np.repeat(image, channels, axis=-1)
    if channels == 1 and have == 3:
        weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
        grey = (image.astype(np.float32) @ weights)[..., None]
        return np.rint(grey).astype(np.uint8) if image.dtype == np.uint8 else grey
    raise UserError(f"images have {have} channels, but data.channels = {channels}: use --data.channels {have}")


def pil_pixels(image: Image.Image, channels: int | None = None) -> np.ndarray:
    """Return the pixels of a PIL image of any mode: [H, W, 1] if grey, [H, W, 3] otherwise.

    They are uint8, or uint16 or float32 where the image has more than 8 bits. With ``channels`` = 4 a fourth band is
    kept as it is.
    """
    if image.mode in DEEP_MODES:
        return native(np.asarray(image))[..., None]
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., None]
    if image.mode == "LA" or image.mode == "RGBA" or "transparency" in image.info:
        grey = image.mode == "LA"
        rgba = image.convert("RGBA")
        if channels == 4:
            return np.asarray(rgba)
        flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.asarray(flat.convert("L"))[..., None] if grey else np.asarray(flat.convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _reason(error: BaseException, path: ImageFile) -> str:
    if isinstance(error, UnidentifiedImageError):
        with path.open("rb") as file:
            return "not an image file" if file.read(1) else "the file is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()  # without the path, which the message has
    return str(error).splitlines()[0] if str(error) else type(error).__name__
