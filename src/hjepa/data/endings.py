"""Which files of a folder are images: by their ending, and where that tells nothing, by their first bytes."""

from collections import Counter
from collections.abc import Iterator

from hjepa.data.encoded import ImageFile
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


# Photographs of phones: HEIC, and what begins like it.
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
HEIC_ENDINGS = (".heic", ".heif", ".hif")


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
    if start[:4] == b"RIFF":
        return start[8:12] == b"WEBP"
    if start[4:8] == b"ftyp":
        if start[8:12] in HEIC_BRANDS:
            return heic_is_supported()
        return start[8:12] in (b"avif", b"avis") and _avif_is_supported()
    return start[:2] == b"BM" and start[6:10] == bytes(4)


def left_out_text(left_out: Counter[str]) -> Iterator[str]:
    """Yield a notice on the files of a folder that are no images, if there are any."""
    if count := left_out.total():
        endings = [ending or "no ending" for ending, _ in left_out.most_common(6)]
        more = ", ..." if len(left_out) > 6 else ""
        if not heic_is_supported() and (photographs := sum(left_out[ending] for ending in HEIC_ENDINGS)):
            which = "file is a photograph" if photographs == 1 else "files are photographs"
            yield f"{photographs:,} {which} in HEIC, which is read with: pip install 'hjepa[heif]'"
        yield (
            f"{count:,} {'file' if count == 1 else 'files'} left out, which Pillow cannot open as images: "
            f"{', '.join(endings)}{more}"
        )


def begins_like_heic(path: ImageFile) -> bool:
    """Return whether a file begins as photographs of phones do."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except (OSError, UserError):
        return False
    return start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS


def heic_is_supported() -> bool:
    """Return whether HEIC can be read, and prepare Pillow for it; the package is optional."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()  # it remembers that it has been called
    return True


def _avif_is_supported() -> bool:
    from PIL import features

    return bool(features.check("avif"))
