"""Capture: a step is recorded once for each combination of shapes and replayed from then on, without Python.

A wrapper around the step, not another step: it is recorded as it runs, and what is replayed are its operations on
buffers that stay where they are (decision 0026).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
B = TypeVar("B", bound=tuple[Tensor, ...])  # a micro-batch
Shapes = tuple[tuple[tuple[torch.Size, torch.dtype], ...], ...]

WARM_UP = 3  # steps before the first recording: libraries are loaded and the optimizer's state made meanwhile
MAX_RECORDINGS = 64  # combinations of shapes; each keeps what the step returns


class Recorder(Protocol):
    """Records the operations of a function, to repeat them."""

    def run(self, function: Callable[[], T]) -> T:
        """Run a function as it will be recorded, without recording it."""
        ...

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Return what repeats the function, and what it returns: tensors that a repetition writes again.

        Nothing is computed yet. Raises RuntimeError (torch.OutOfMemoryError, too) if it cannot be recorded.
        """
        ...


class CudaGraphs:
    """Records CUDA graphs, which share their memory: only one of them runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, function: Callable[[], T]) -> T:
        """Run a function on the stream of the recordings."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = function()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Return the replay of a graph, and the tensors that it writes."""
        graph = torch.cuda.CUDAGraph()
        # Threads that prepare batches pin memory meanwhile, which is forbidden in the thread that records only.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = function()
        return graph.replay, result


class Recording(NamedTuple, Generic[T]):
    """A recorded step of one combination of shapes."""

    replay: Callable[[], None]
    result: T


class Captured(Generic[B, T]):
    """A function of micro-batches that is recorded and replayed; in the beginning it runs as it is.

    ``tidy`` removes what a recording leaves behind that failed on the way, such as gradients.
    """

    def __init__(self, function: Callable[[Sequence[B]], T], recorder: Recorder, tidy: Callable[[], None]) -> None:
        self._function, self._recorder, self._tidy = function, recorder, tidy
        self._buffers: dict[tuple[int, int, torch.Size, torch.dtype], Tensor] = {}
        self._recordings: dict[Shapes, Recording[T]] = {}
        self._seen: Counter[Shapes] = Counter()
        self.given_up = ""  # why nothing more is recorded

    @property
    def recordings(self) -> int:
        """Return the number of recorded combinations of shapes."""
        return len(self._recordings)

    def forget(self) -> None:
        """Drop all recordings: tensors that they used have been replaced."""
        self._recordings.clear()
        self._seen.clear()

    def __call__(self, micro_batches: Sequence[B]) -> T:
        """Return the result of the function; until the next call, if it is a replay."""
        shapes = tuple(tuple((t.shape, t.dtype) for t in batch) for batch in micro_batches)
        recording = self._recordings.get(shapes) or self._record(shapes, micro_batches)
        if recording is None:
            self._seen[shapes] += 1
            return self._recorder.run(lambda: self._function(micro_batches))
        self._filled(micro_batches)
        recording.replay()
        return recording.result

    def _record(self, shapes: Shapes, micro_batches: Sequence[B]) -> Recording[T] | None:
        """Record the function for shapes that were met before; None if they were not, or if it cannot be done."""
        early = self._seen[shapes] == 0 or self._seen.total() < WARM_UP
        if early or self.given_up or len(self._recordings) >= MAX_RECORDINGS:
            return None
        static = self._filled(micro_batches)
        try:
            recording = Recording(*self._recorder.record(lambda: self._function(static)))
        except RuntimeError as error:  # such as too little memory: training goes on as it did
            self.given_up = str(error).splitlines()[0]
            self._tidy()
            return None
        self._recordings[shapes] = recording
        return recording

    def _filled(self, micro_batches: Sequence[B]) -> list[B]:
        """Copy micro-batches into the buffers of their shapes, and return these."""
        filled: list[B] = []
        for number, batch in enumerate(micro_batches):
            tensors = []
            for place, tensor in enumerate(batch):
                key = (number, place, tensor.shape, tensor.dtype)
                buffer = self._buffers.get(key)
                if buffer is None:
                    buffer = self._buffers[key] = torch.empty_like(tensor)
                buffer.copy_(tensor, non_blocking=True)
                tensors.append(buffer)
            filled.append(type(batch)(*tensors))
        return filled
