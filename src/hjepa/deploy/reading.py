"""Images read once: their pixels for the encoder and a digest of their content, in threads ahead of the encoder."""

import contextlib
import hashlib
import io
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hjepa.data.decode import read_image
from hjepa.data.encoded import EncodedImage
from hjepa.data.pages import Page
from hjepa.data.sources import FileSource, ImageSource, image_name
from hjepa.errors import UserError

BATCHES_AHEAD = 2


class ReadImage(NamedTuple):
    """What was read of one image; ``pixels`` is None and ``error`` the reason if that failed."""

    pixels: Tensor | None  # [C, H, W]
    content_hash: str  # SHA-256 of the file, or of the pixels if it is a page, or no file; empty if unreadable
    error: str


def read_once(source: ImageSource, index: int, prepare: Callable[[np.ndarray], Tensor]) -> ReadImage:
    """Read, digest, decode and prepare one image; its bytes are read once. What is wrong with it is returned."""
    digest = ""
    try:
        path = source.paths[index] if isinstance(source, FileSource) else None
        if isinstance(source, FileSource) and path is not None and not isinstance(path, Page):
            with path.open("rb") as file:
                content = file.read()
            digest = hashlib.sha256(content).hexdigest()
            held = EncodedImage(os.fspath(path), lambda: io.BytesIO(content))
            image = read_image(held, source.channels)
        else:
            image = source[index]
            digest = hashlib.sha256(f"{image.dtype} {image.shape}".encode() + image.tobytes()).hexdigest()
        return ReadImage(prepare(image), digest, "")
    except OSError as error:
        return ReadImage(None, digest, f"cannot be read: {error.strerror or type(error).__name__}")
    except UserError as error:
        reason = " ".join(str(error).split())
        return ReadImage(None, digest, reason.removeprefix(image_name(source, index)).removeprefix(": "))


def read_batches(
    source: ImageSource, batches: Sequence[range], prepare: Callable[[np.ndarray], Tensor], *, workers: int
) -> Iterator[list[ReadImage]]:
    """Yield the images of each batch in order; ``workers`` threads read ahead, with 0 nothing is read ahead."""
    if not workers:
        yield from ([read_once(source, index, prepare) for index in batch] for batch in batches)
        return
    waiting: deque[list[Future[ReadImage]]] = deque()
    rest = iter(batches)
    pool = ThreadPoolExecutor(workers, "hjepa-read")
    try:
        while True:
            while len(waiting) <= BATCHES_AHEAD and (batch := next(rest, None)) is not None:
                waiting.append([pool.submit(read_once, source, index, prepare) for index in batch])
            if not waiting:
                return
            yield [each.result() for each in waiting.popleft()]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def stacked(images: Sequence[ReadImage]) -> Tensor | None:
    """Return a batch [B, C, H, W] with zeros for what could not be read; None if nothing could.

    So the others stand in the same rows whichever are damaged, and their features are the same to the last bit.
    """
    readable = next((each.pixels for each in images if each.pixels is not None), None)
    if readable is None:
        return None
    return torch.stack([torch.zeros_like(readable) if each.pixels is None else each.pixels for each in images])


def file_named(name: str, folder: str = "") -> Path | None:
    """Return the file that ``image_name`` described, relative to the current folder or to ``folder``; None if gone."""
    raw = _unescaped(name)
    for each in dict.fromkeys((name, raw)):
        for base in ("", folder):
            with contextlib.suppress(OSError, ValueError):
                if (path := Path(base, each)).is_file():
                    return path
    return None


def _unescaped(name: str) -> str:
    escaped = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), name.encode("utf-8", "replace"))
    return escaped.decode("utf-8", "surrogateescape")


def reading_threads(workers: int | None) -> int:
    """Return the number of threads that read images: as given, or one per available core, at most 16."""
    if workers is not None and workers < 0:
        raise UserError(f"--workers {workers}: must be at least 0; omit it to use one thread per core")
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 16)
