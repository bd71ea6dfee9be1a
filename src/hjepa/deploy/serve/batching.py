"""Dynamic batching: images that arrive together pass through the encoder together."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import torch
from torch import Tensor

Encode = Callable[[Tensor], np.ndarray]  # [B, C, H, W] -> [B, F]


class Batcher:
    """Encodes images in one thread, as many at a time as are waiting, up to ``batch_size``.

    The first image of a batch waits at most ``delay`` seconds for others: alone it is answered at once, and under load
    batches are full without waiting.
    """

    def __init__(self, encode: Encode, *, batch_size: int, delay: float = 0.002) -> None:
        self.encode, self.batch_size, self.delay = encode, batch_size, delay
        self._waiting: queue.SimpleQueue[tuple[Tensor, Future[np.ndarray]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="hjepa-encode", daemon=True)
        self._thread.start()

    def submit(self, image: Tensor) -> "Future[np.ndarray]":
        """Return the future vector [F] of an image [C, H, W]."""
        future: Future[np.ndarray] = Future()
        self._waiting.put((image, future))
        return future

    def close(self) -> None:
        """Encode what is waiting, and end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, end = [first], False
            until = time.monotonic() + self.delay
            while len(batch) < self.batch_size and not end:
                try:
                    more = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    break
                if more is None:
                    end = True
                else:
                    batch.append(more)
            self._encode(batch)
            if end:
                return

    def _encode(self, batch: Sequence[tuple[Tensor, "Future[np.ndarray]"]]) -> None:
        try:
            vectors = self.encode(torch.stack([image for image, _ in batch]))
        except Exception as error:  # noqa: BLE001  (whoever waits must get an answer, and the thread must go on)
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), vector in zip(batch, vectors, strict=True):
            future.set_result(vector)
