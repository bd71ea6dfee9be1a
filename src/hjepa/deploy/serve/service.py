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
from hjepa.deploy.encoders import OpenedEncoder
from hjepa.deploy.serve.batching import Batcher
from hjepa.deploy.serve.decoding import decoded
from hjepa.deploy.serve.limits import Limits, Refused
from hjepa.deploy.similarity import Matches, nearest
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

    async def vectors(self, images: Sequence[tuple[str, bytes]]) -> np.ndarray:
        """Return the vectors [B, F] of image files (name, content); raises Refused for the first that is none."""
        loop = asyncio.get_running_loop()
        limits = self.limits
        tensors = [
            loop.run_in_executor(self.threads, decoded, name, content, self.encoder, limits) for name, content in images
        ]
        # All of them, also after one has failed: nobody would ever look at the others' errors.
        read = await asyncio.gather(*tensors, return_exceptions=True)
        for one in read:
            if isinstance(one, BaseException):
                raise one
        futures = [asyncio.wrap_future(self.batcher.submit(one)) for one in read if isinstance(one, Tensor)]
        found = np.stack(await asyncio.gather(*futures))
        if not np.isfinite(found).all():
            raise Refused(500, "the features are not finite: the weights may have diverged")
        return found

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
