"""Look at every image once before anything is trained: what it is, whether it can be decoded, what it equals."""

import contextlib
import io
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from hashlib import blake2b
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hjepa.data.decode import Header, header_of, opened, pil_pixels, read_header, read_image
from hjepa.data.deep_colour import deep_colour
from hjepa.data.encoded import EncodedImage, ImageFile
from hjepa.data.pages import Page, number_of_pages
from hjepa.data.sources import FileSource, ImageSource
from hjepa.data.survey import headers_read
from hjepa.data.tiff import read_bands, refuse_empty_promises, tiff_header
from hjepa.errors import UserError
from hjepa.files import shown

CHUNK = 64  # images that a process looks at before it reports
FEW = 256  # images for which no process is started
ENOUGH = 256  # pixels on the shorter side that tell statistics and duplicates of a larger image
ROW = np.dtype(
    [
        ("bytes", "i8"), ("digest", "V16"), ("height", "i4"), ("width", "i4"), ("kind", "i2"),
        ("orientation", "u1"), ("pages", "i4"), ("thumbnail", "u1", (8, 9)),
    ]
)  # fmt: skip
UNREADABLE = -1  # in place of a kind
_ORIENTATION = 0x0112  # of EXIF


class Kind(NamedTuple):
    """What images of one kind have in common."""

    format: str  # of the file: JPEG, PNG ...; "array" for images in memory
    mode: str  # of Pillow, or the type of the values
    bits: int  # of each value
    bands: int
    alpha: bool


@dataclass
class Moments:
    """Sums over images of equal weight: of the mean and of the mean square of each channel."""

    images: int
    sums: np.ndarray
    squares: np.ndarray
    low: float
    high: float

    def add(self, other: "Moments") -> None:
        """Add the images of another part."""
        self.images += other.images
        self.sums, self.squares = self.sums + other.sums, self.squares + other.squares
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)


@dataclass
class Preflight:
    """What was found: a row for each image, and what is said of few."""

    rows: np.ndarray
    kinds: list[Kind] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)  # index -> why the image cannot be decoded
    headers: list[tuple[int, ImageFile, Header | None]] = field(default_factory=list)
    moments: dict[tuple[int, bool], Moments] = field(default_factory=dict)  # by bands, and whether more than 8 bits

    @property
    def readable(self) -> np.ndarray:
        """Return which images can be decoded."""
        return np.asarray(self.rows["kind"] != UNREADABLE)

    def count(self, kind: Kind) -> int:
        """Return the number of images of a kind."""
        return int((self.rows["kind"] == self.kinds.index(kind)).sum())


class _Part(NamedTuple):
    """What a process found in some images."""

    first: int
    rows: np.ndarray
    kinds: list[Kind]
    errors: dict[int, str]
    headers: list[tuple[int, Header | None]]
    moments: dict[tuple[int, bool], Moments]


def look_at_all(
    source: ImageSource,
    *,
    channels: int | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> Preflight:
    """Read and decode every image once; ``progress`` is called with the number of images seen.

    Memory is about 120 bytes for each image. Raises UserError if a process is killed.
    """
    found = Preflight(np.zeros(len(source), dtype=ROW))
    of_file = isinstance(source, FileSource)
    for part in _parts(source, channels, workers if workers is not None else _processes()):
        _take_in(found, part, source if of_file else None)
        progress(part.first + len(part.rows))
    return found


def _take_in(found: Preflight, part: _Part, source: Any) -> None:
    """Add what a process found; each process numbers the kinds that it meets by itself."""
    for kind in part.kinds:
        if kind not in found.kinds:
            found.kinds.append(kind)
    numbers = np.array([*(found.kinds.index(kind) for kind in part.kinds), UNREADABLE])
    part.rows["kind"] = numbers[part.rows["kind"]]  # the last one for -1
    found.rows[part.first : part.first + len(part.rows)] = part.rows
    found.errors.update(part.errors)
    if source is not None:
        found.headers.extend((index, source.paths[index], header) for index, header in part.headers)
    for key, moments in part.moments.items():
        if key in found.moments:
            found.moments[key].add(moments)
        else:
            found.moments[key] = moments


def _processes() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _parts(source: ImageSource, channels: int | None, workers: int) -> Iterator[_Part]:
    """Yield the parts in order, from this process or from others."""
    starts = range(0, len(source), CHUNK)
    if workers < 2 or len(source) <= FEW:
        look = _Look(source, channels)
        yield from (look(start) for start in starts)
        return
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, context, _begin, (source, channels)) as pool:
        waiting: list[Future[_Part]] = []
        try:
            for start in starts:
                waiting.append(pool.submit(_look_from, start))
                if len(waiting) > 4 * workers:  # so that what is found does not pile up
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        except BrokenProcessPool:
            raise UserError(
                "a process that reads images was killed, probably because memory is full: use --workers 1"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(source: ImageSource, channels: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its processes
    global _look
    _look = _Look(source, channels)


_look: "_Look | None" = None


def _look_from(start: int) -> _Part:
    assert _look is not None
    return _look(start)


class _Seen(NamedTuple):
    """An image, decoded: [H, W, C], perhaps of a smaller scale, and its size."""

    kind: Kind
    pixels: np.ndarray
    size: tuple[int, int]
    orientation: int = 1
    pages: int = 1
    header: Header | None = None  # if it has been read on the way


class _Look:
    """Looks at a chunk of images."""

    def __init__(self, source: ImageSource, channels: int | None) -> None:
        self.source, self.channels = source, channels
        self.wanted = set(headers_read(len(source))) if isinstance(source, FileSource) else set()

    def __call__(self, first: int) -> _Part:
        """Return what is found in the chunk that begins with this image."""
        last = min(first + CHUNK, len(self.source))
        part = _Part(first, np.zeros(last - first, dtype=ROW), [], {}, [], {})
        for index in range(first, last):
            row = part.rows[index - first]
            row["kind"] = UNREADABLE
            try:
                seen = self._file(index, row, part) if isinstance(self.source, FileSource) else self._array(index, row)
                thumbnail, moments = _thumbnail(seen.pixels), _moments(seen.pixels)
            except (UserError, OSError, MemoryError) as error:
                part.errors[index] = shown(str(error))
                continue
            if seen.kind not in part.kinds:
                part.kinds.append(seen.kind)
            row["kind"] = part.kinds.index(seen.kind)
            row["height"], row["width"] = seen.size
            row["orientation"], row["pages"] = seen.orientation, seen.pages
            row["thumbnail"] = thumbnail
            _add_moments(part, moments, seen.pixels)
        return part

    def _file(self, index: int, row: Any, part: _Part) -> _Seen:
        assert isinstance(self.source, FileSource)
        path = self.source.paths[index]
        if isinstance(path, Page):
            return self._page(index, path, row, part)
        with path.open("rb") as file:
            content = file.read()
        row["bytes"], row["digest"] = len(content), blake2b(content, digest_size=16).digest()
        image = EncodedImage(os.fspath(path), lambda: io.BytesIO(content))
        seen: _Seen | None = None
        with contextlib.suppress(Exception):  # whatever it is, the reader of images says it in one line, or can read it
            seen = _decoded(image, self.channels)
        if index in self.wanted:
            header = seen.header if seen is not None and seen.header else read_header(image, self.channels)
            part.headers.append((index, header and header._replace(pages=1)))  # pages are a finding, not a notice
        pages = number_of_pages(image)
        if seen is not None:
            return seen._replace(pages=pages)
        pixels = read_image(image, self.channels)
        return _Seen(_kind_of_array(pixels)._replace(format="other"), pixels, _size(pixels), pages=pages)

    def _page(self, index: int, page: Page, row: Any, part: _Part) -> _Seen:
        """Look at a page by itself: the whole file is not read for it, and may be larger than memory."""
        if index in self.wanted:
            part.headers.append((index, read_header(page, self.channels)))
        try:
            seen = _decoded(page.held(), self.channels)
        except Exception:  # noqa: BLE001  (as for a file)
            pixels = read_image(page, self.channels)
            seen = _Seen(_kind_of_array(pixels)._replace(format="other"), pixels, _size(pixels))
        row["bytes"], row["digest"] = seen.pixels.nbytes, _digest(seen.pixels)
        return seen

    def _array(self, index: int, row: Any) -> _Seen:
        pixels = self.source[index]
        row["bytes"] = pixels.nbytes
        row["digest"] = _digest(pixels)
        return _Seen(_kind_of_array(pixels), pixels, _size(pixels))


def _decoded(image: EncodedImage, channels: int | None) -> _Seen:
    """Decode an image completely; a large JPEG at a smaller scale, which takes a fraction of the time."""
    tiff = tiff_header(image)
    if tiff is not None:
        refuse_empty_promises(image, tiff)
    if tiff is not None and tiff.beyond_pillow(channels):
        pixels = read_bands(image, tiff)
        values = f"float{tiff.bits}" if tiff.is_float else f"uint{tiff.bits}"
        return _Seen(Kind("TIFF", values, tiff.bits, tiff.bands, alpha=False), pixels, _size(pixels))
    if not isinstance(image, Page) and (colour := deep_colour(image)) is not None:
        pixels = read_image(image, channels)
        values = "uint16, of which 8 bits are kept" if pixels.dtype == np.uint8 else str(pixels.dtype)
        return _Seen(
            Kind(colour.kind, values, 8 * pixels.dtype.itemsize, colour.bands, colour.alpha), pixels, _size(pixels)
        )
    with opened(image) as file:
        header = header_of(file)
        if file.format == "JPEG":
            file.draft(None, (ENOUGH, ENOUGH))
        file.load()
        deep = file.mode.startswith(("I", "F"))
        bits = (32 if file.mode in ("I", "F") else 16) if deep else 1 if file.mode == "1" else 8
        if tiff is not None and tiff.bits > bits:
            bits = tiff.bits
        kind = Kind(file.format or "other", file.mode, bits, len(file.getbands()), header.alpha)
        orientation = int(file.getexif().get(_ORIENTATION, 1) or 1)
        known = header if tiff is None else None
        return _Seen(kind, pil_pixels(file, channels), header.size, orientation, header=known)


def _kind_of_array(pixels: np.ndarray) -> Kind:
    return Kind("array", str(pixels.dtype), 8 * pixels.dtype.itemsize, pixels.shape[-1], alpha=False)


def _size(pixels: np.ndarray) -> tuple[int, int]:
    return pixels.shape[0], pixels.shape[1]


def _digest(pixels: np.ndarray) -> bytes:
    return blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Return an image as 8 x 9 grey values, for finding images that look alike."""
    grey = pixels.mean(axis=-1, dtype=np.float32) if pixels.shape[-1] > 1 else pixels[..., 0].astype(np.float32)
    if pixels.dtype != np.uint8:
        grey = np.nan_to_num(grey)
        low, high = float(grey.min()), float(grey.max())
        grey = (grey - low) * (255.0 / max(high - low, 1e-12))
    return np.asarray(Image.fromarray(grey).resize((9, 8), Image.Resampling.BOX)).round().astype(np.uint8)


def _moments(pixels: np.ndarray) -> Moments:
    step = max(1, math.ceil(min(pixels.shape[:2]) / ENOUGH))
    values = pixels[::step, ::step].reshape(-1, pixels.shape[-1]).astype(np.float64)
    deep = pixels.dtype != np.uint8
    if deep:
        values = np.nan_to_num(values)
    else:
        values /= 255.0
    return Moments(1, values.mean(0), np.square(values).mean(0), float(values.min()), float(values.max()))


def _add_moments(part: _Part, moments: Moments, pixels: np.ndarray) -> None:
    key = (pixels.shape[-1], pixels.dtype != np.uint8)
    if key in part.moments:
        part.moments[key].add(moments)
    else:
        part.moments[key] = moments


def channel_statistics(found: Preflight, channels: int) -> tuple[list[float], list[float]] | None:
    """Return mean and standard deviation per channel, in 0..1, of the images of 8 bits; None if there are none."""
    usable: Sequence[Moments] = [
        _spread(moments, channels)
        for (bands, deep), moments in found.moments.items()
        if not deep and (bands in (1, channels) or bands > channels)
    ]
    if not usable:
        return None
    images = sum(each.images for each in usable)
    means = sum((each.sums for each in usable), np.zeros(channels)) / images
    squares = sum((each.squares for each in usable), np.zeros(channels)) / images
    deviations = np.sqrt(np.clip(squares - np.square(means), 0, None))
    return [round(float(value), 4) for value in means], [round(float(value), 4) for value in deviations]


def _spread(moments: Moments, channels: int) -> Moments:
    """Return the moments of grey images repeated in every channel, and of the first channels of others."""
    if len(moments.sums) == 1:
        sums, squares = np.repeat(moments.sums, channels), np.repeat(moments.squares, channels)
    else:
        sums, squares = moments.sums[:channels], moments.squares[:channels]
    return Moments(moments.images, sums, squares, moments.low, moments.high)
