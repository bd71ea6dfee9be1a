"""The loop: read ahead, encode, append; it continues where an earlier process stopped."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from hjepa.data.sources import ImageSource, image_name
from hjepa.deploy.embed.plan import Plan
from hjepa.deploy.embed.store import OpenStore, Row
from hjepa.deploy.encoders import OpenedEncoder
from hjepa.deploy.reading import ReadImage, read_batches, read_once, stacked
from hjepa.setup.machine import autocast_dtype

NOT_FINITE = "its features are not finite"


@dataclass
class Progress:
    """How far embedding is; given to ``progress`` after each batch."""

    done: int  # images of this process, those of earlier processes included
    total: int
    resumed: int  # done by earlier processes
    seconds: float = 0.0  # of this process

    @property
    def images_per_second(self) -> float:
        """Return the throughput of this process."""
        return (self.done - self.resumed) / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float:
        """Return the estimated time that is left."""
        rate = self.images_per_second
        return (self.total - self.done) / rate if rate else 0.0


@dataclass
class EmbedLoop:
    """One pass over the images of a part."""

    encoder: OpenedEncoder
    source: ImageSource
    plan: Plan
    device: torch.device
    workers: int
    progress: Callable[[Progress], None] | None = None
    started: float = field(default_factory=time.monotonic)

    def run(self, store: OpenStore) -> Progress:
        """Embed what is left of the part."""
        batches = self.plan.part.batches(int(self.plan.metadata["batch_size"]), store.done)
        state = Progress(store.done, self.plan.part.count, store.done)
        ahead = read_batches(self.source, batches, self.encoder.prepare, workers=self.workers)
        for batch, images in zip(batches, ahead, strict=True):
            vectors = self._vectors(images)
            store.append(vectors, self._rows(batch, images, vectors))
            state.done, state.seconds = store.done, time.monotonic() - self.started
            if self.progress is not None:
                self.progress(state)
        store.sync()
        return state

    def vectors_of(self, batch: range) -> np.ndarray:
        """Return the vectors of a batch, without storing them."""
        return self._vectors([read_once(self.source, index, self.encoder.prepare) for index in batch])

    def _vectors(self, images: Sequence[ReadImage]) -> np.ndarray:
        """Return float32 [b, floats per image], levels side by side; NaN for what could not be read."""
        found = np.full((len(images), self.plan.floats_per_image), np.nan, dtype=np.float32)
        batch = stacked(images)
        if batch is None:
            return found
        dtype = autocast_dtype(str(self.plan.metadata["precision"]))
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            facts = self.plan.metadata
            levels = self.encoder.vectors(batch.to(self.device), pooling=facts["pooling"], level=facts["level"])
        flat = torch.cat([levels[name].flatten(1).float() for name in self.plan.levels], dim=1).cpu().numpy()
        readable = np.array([each.pixels is not None for each in images])
        readable &= np.isfinite(flat).all(1)
        found[readable] = flat[readable]
        return found

    def _rows(self, batch: range, images: Sequence[ReadImage], vectors: np.ndarray) -> list[Row]:
        rows = []
        for index, image, vector in zip(batch, images, vectors, strict=True):
            error = image.error or (NOT_FINITE if np.isnan(vector).any() else "")
            name = image_name(self.source, index)
            rows += [Row(name, level, image.content_hash, error) for level in self.plan.levels]
        return rows
