"""Which files of a folder are images: by their ending, and where that tells nothing, by their first bytes."""

import functools
import warnings
from collections import Counter
from collections.abc import Iterator

from hjepa.data.encoded import ImageFile
from hjepa.data.jpeg_xl import BARE, CONTAINER
from hjepa.errors import UserError

# What Pillow opens everywhere; a file with such an ending that is no image is reported as damaged.
ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

_STARTS = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF
    b"MM\0*",
    b"\0\0\0\x0cjP  \r\n\x87\n",  # JPEG 2000
    b"\xff\x4f\xff\x51",
)
_JPEG_XL = (BARE, CONTAINER)
# What Pillow recognises but does not read, or not by itself, or with other values than are in the file.
_NO_READER = frozenset({"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})

# Photographs of phones: HEIC, and what begins like it.
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
HEIC_ENDINGS = (".heic", ".heif", ".hif")
JPEG_XL_ENDING = ".jxl"


def is_image(path: ImageFile) -> bool:
    """Return whether a file is an image: it has one of the usual endings, or begins like one that can be opened."""
    if path.suffix.lower() in ENDINGS:
        return True
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError:
        return False
    if start.startswith(_STARTS):
        return True
    if start.startswith(_JPEG_XL[1]) or (start.startswith(_JPEG_XL[0]) and path.suffix.lower() == JPEG_XL_ENDING):
        return jpeg_xl_is_supported()  # two bytes alone begin many a file
    if start[:4] == b"RIFF":
        return start[8:12] == b"WEBP"
    if start[4:8] == b"ftyp":
        if start[8:12] in HEIC_BRANDS:
            return heic_is_supported()
        return start[8:12] in (b"avif", b"avis") and _avif_is_supported()
    if start[:2] == b"BM" and start[6:10] == bytes(4):
        return True
    return path.suffix.lower() in _other_endings() and _pillow_opens(path)


@functools.cache
def _other_endings() -> frozenset[str]:
    """Return the endings of the rarer kinds of images that Pillow reads: many of them begin like anything."""
    from PIL import Image

    Image.init()
    return frozenset(
        ending
        for ending, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and kind not in _NO_READER
    )


def _pillow_opens(path: ImageFile) -> bool:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with path.open("rb") as file, Image.open(file):
                return True
        except Image.DecompressionBombError:
            return True  # of any size
        except Exception:  # noqa: BLE001  (whatever is wrong with it, the user hears that it was left out)
            return False


def left_out_text(left_out: Counter[str]) -> Iterator[str]:
    """Yield a notice on the files of a folder that are no images, if there are any."""
    if count := left_out.total():
        endings = [ending or "no ending" for ending, _ in left_out.most_common(6)]
        more = ", ..." if len(left_out) > 6 else ""
        if not heic_is_supported() and (photographs := sum(left_out[ending] for ending in HEIC_ENDINGS)):
            which = "file is a photograph" if photographs == 1 else "files are photographs"
            yield f"{photographs:,} {which} in HEIC, which is read with: pip install 'hjepa[heif]'"
        if left_out[JPEG_XL_ENDING] and not jpeg_xl_is_supported():
            are = "file is" if left_out[JPEG_XL_ENDING] == 1 else "files are"
            yield f"{left_out[JPEG_XL_ENDING]:,} {are} JPEG XL, which is read with: pip install 'hjepa[jxl]'"
        yield (
            f"{count:,} {'file' if count == 1 else 'files'} left out, which are not read as images: "
            f"{', '.join(endings)}{more}"
        )


def reader_missing(path: ImageFile) -> str | None:
    """Prepare Pillow for an image that it cannot open by itself; return what would read it if that is missing."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except (OSError, UserError):
        return None
    if start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS and not heic_is_supported():
        return "a photograph in HEIC, which is read with: pip install 'hjepa[heif]'"
    if start.startswith(_JPEG_XL) and not jpeg_xl_is_supported():
        return "a JPEG XL image, which is read with: pip install 'hjepa[jxl]'"
    return None


def heic_is_supported() -> bool:
    """Return whether HEIC can be read, and prepare Pillow for it; the package is optional."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()  # it remembers that it has been called
    return True


def jpeg_xl_is_supported() -> bool:
    """Return whether JPEG XL can be read, and prepare Pillow for it; the package is optional."""
    try:
        import pillow_jxl  # noqa: F401  (it registers itself)
    except ImportError:
        return False
    return True


def _avif_is_supported() -> bool:
    from PIL import features

    return bool(features.check("avif"))
