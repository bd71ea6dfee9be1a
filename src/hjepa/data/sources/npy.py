"""Images in a NumPy .npy file, read from the disk as they are needed."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from hjepa.data.sources.arrays import ArraySource
from hjepa.data.survey import sample_of
from hjepa.errors import UserError

SAMPLE = 256  # images of which the pixels are part of the fingerprint


class NpySource(ArraySource):
    """A memory-mapped array: the file may be larger than memory, and its processes share what is read of it."""

    def __init__(self, file: Path, channels: int | None = None) -> None:
        try:
            images = np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError):
            raise UserError(
                f"{file} cannot be read as a .npy file of numbers: save the array again with numpy.save"
            ) from None
        super().__init__(str(file), images, channels=channels)
        self.file, self._wanted = file, channels

    def __reduce__(self) -> tuple[Any, ...]:
        """Send the path to another process, not the pixels."""
        return NpySource, (self.file, self._wanted)

    def fingerprint(self) -> str:
        """Digest of shape and type, and of the pixels of a sample: the whole may be larger than memory."""
        digest = hashlib.sha256(f"{self.images.dtype.str}{self.images.shape}".encode())
        for index in sample_of(len(self), SAMPLE, "fingerprint"):
            digest.update(np.ascontiguousarray(self.images[index]).data)
        return f"{len(self)}-{digest.hexdigest()[:16]}"
