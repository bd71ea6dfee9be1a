"""What a server does with images: decode them in threads, encode them in batches, find their neighbours."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hjepa.deploy.collection import Collection
from hjepa.deploy.embed.loop import NOT_FINITE
from hjepa.deploy.encoders import OpenedEncoder
from hjepa.deploy.serve.batching import Batcher
from hjepa.deploy.serve.decoding import decoded
from hjepa.deploy.serve.limits import Limits
from hjepa.deploy.similarity import Matches, nearest
from hjepa.errors import UserError
from hjepa.evaluation.features import side_by_side
from hjepa.setup.machine import autocast_dtype


@dataclass
class Service:
    """An encoder that answers many requests at once; ``index`` holds the vectors that are searched."""

    encoder: OpenedEncoder
    device: torch.device
    pooling: str
    level: str = "last"
    precision: str = "float32"
    batch_size: int = 32
    limits: Limits = field(default_factory=Limits)
    index: Collection | None = None
    counted: Callable[[int], None] = lambda images: None

    def __post_init__(self) -> None:
        self.threads = ThreadPoolExecutor(min(16, os.cpu_count() or 1), "hjepa-decode")
        self.batcher = Batcher(self._encode, batch_size=self.batch_size)
        self.width = self._encode(self.encoder.prepare(self._blank())[None]).shape[1]  # and warms the encoder up
        self.known = None if self.index is None else self.index.vectors

    def close(self) -> None:
        """Answer what is waiting, and end all threads."""
        self.batcher.close()
        self.threads.shutdown()

    async def vectors(self, images: Sequence[tuple[str, bytes]]) -> list[np.ndarray | str]:
        """Return for each image file (name, content) its vector [F], or why there is none."""
        return await asyncio.gather(*(self._vector(name, content) for name, content in images))

    async def _vector(self, name: str, content: bytes) -> np.ndarray | str:
        limit, loop = self.limits.max_megapixels, asyncio.get_running_loop()
        try:
            image = await loop.run_in_executor(self.threads, decoded, name, content, self.encoder, limit)
        except UserError as error:
            return str(error)
        vector = await asyncio.wrap_future(self.batcher.submit(image))
        return vector if np.isfinite(vector).all() else NOT_FINITE

    async def neighbours(self, vectors: np.ndarray, top: int) -> Matches:
        """Return the most similar images of the index."""
        assert self.known is not None, "a server without an index has no route to here"
        return await asyncio.get_running_loop().run_in_executor(self.threads, nearest, vectors, self.known, top)

    @torch.no_grad()
    def _encode(self, images: Tensor) -> np.ndarray:
        dtype = autocast_dtype(self.precision)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            levels = self.encoder.vectors(images.to(self.device), pooling=self.pooling, level=self.level)
        self.counted(len(images))
        return side_by_side([each.flatten(1).float().cpu() for each in levels.values()]).numpy()

    def _blank(self) -> np.ndarray:
        return np.zeros((64, 64, self.encoder.channels), dtype=np.uint8)
