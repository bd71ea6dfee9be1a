"""Batches in an order that is a function of (seed, position): position is the whole state.

The stream of samples is endless: position p lies in epoch p // n and is image ``order(epoch)[p % n]``.
A batch may straddle two epochs, so no image is ever dropped. Crops are drawn per (seed, attempt, row),
so neither workers nor processes change what is seen.
"""

import contextlib
import ctypes
import functools
import itertools
import multiprocessing
import multiprocessing.util
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from hjepa.data.augment import DRAWS, Augment, ResizeToInput
from hjepa.data.bad_images import BadImage, BadImages, TooManyBadImages, problem_of, replacements
from hjepa.data.sources import DiskSource, ImageSource, image_name
from hjepa.data.training_images import TrainingImages
from hjepa.errors import UnreadableImage, UserError
from hjepa.randomness import generator

Images = TrainingImages | ImageSource

HELD = 1 << 25  # values of images that are read before the crops of them are cut


@dataclass(frozen=True)
class RankShard:
    """The rows of each global batch that one rank loads, in ``accumulate`` micro-batches of equal size."""

    batch_size: int  # global: all ranks and micro-batches together
    world_size: int = 1
    rank: int = 0
    accumulate: int = 1

    def __post_init__(self) -> None:
        parts = self.world_size * self.accumulate
        if self.batch_size % parts:
            nearest = max(parts, self.batch_size // parts * parts)
            raise UserError(
                f"optim.batch_size = {self.batch_size} cannot be split into {self.world_size} processes x "
                f"{self.accumulate} micro-batches: use --optim.batch_size {nearest}"
            )

    def rows(self) -> list[slice]:
        """Return the rows of the global batch that belong to each micro-batch of this rank."""
        size = self.batch_size // (self.world_size * self.accumulate)
        first = self.rank * self.accumulate
        return [slice((first + m) * size, (first + m + 1) * size) for m in range(self.accumulate)]


class MicroBatchIndex(NamedTuple):
    """Which micro-batch a loader worker is asked for."""

    attempt: int  # optimizer steps taken or skipped before this one
    rows: slice  # of the global batch


def sample_order(seed: int, images: int, attempt: int, batch_size: int) -> np.ndarray:
    """Return which image stands in each row of the global batch of an attempt: int64 [batch_size]."""
    first, end = attempt * batch_size, (attempt + 1) * batch_size
    parts = [
        _permutation(seed, images, epoch)[max(0, first - epoch * images) : end - epoch * images]
        for epoch in range(first // images, (end - 1) // images + 1)
    ]
    return np.concatenate(parts)


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, images: int, epoch: int) -> np.ndarray:
    return generator(seed, "order", epoch).permutation(images)


class LoadedMicroBatch(NamedTuple):
    """A micro-batch as a loader worker returns it, and the unreadable images that it skipped."""

    images: Tensor | np.ndarray  # uint8 or float32 [b, C, H, W]; an array where shared memory was full
    bad: tuple[BadImage, ...] = ()

    def sent(self) -> "LoadedMicroBatch":
        """Return the micro-batch as it leaves a loader worker: in shared memory, or through the pipe if that is full.

        Docker gives a container 64 MB of /dev/shm. A tensor that does not fit there would be lost in the thread of
        the worker's queue, and training would wait for it for ever; an array is pickled and needs no shared memory.
        """
        assert isinstance(self.images, Tensor)
        try:
            return self._replace(images=self.images.share_memory_())
        except (RuntimeError, OSError):
            return self._replace(images=self.images.numpy())


class MicroBatchDataset(Dataset["LoadedMicroBatch | UserError"]):
    """Maps a ``MicroBatchIndex`` to a micro-batch [b, C, H, W]: uint8, or float32 in 0..1 (``data.value_range``).

    ``bad`` counts the unreadable images met so far, where the batches are taken; another image stands in for each.
    """

    def __init__(
        self,
        source: ImageSource,
        augment: Augment,
        *,
        seed: int,
        batch_size: int,
        max_bad: float = 0.0,
        cache: str = "off",
    ) -> None:
        self.source, self.augment = source, augment
        self.images = TrainingImages(source, augment.reduction, cache)
        self.seed, self.batch_size = seed, batch_size
        removed = source.removed if isinstance(source, DiskSource) else ()
        self.bad = BadImages(len(source), max_bad, removed)

    def __getitem__(self, index: MicroBatchIndex) -> LoadedMicroBatch | UserError:
        """Return a micro-batch, or the error that the user should see.

        The error is returned, not raised: an exception that crosses from a worker arrives as a page of traceback.
        """
        try:
            loaded = self._images(index)
        except UserError as error:
            return error
        return loaded.sent() if get_worker_info() else loaded

    def drawn(self, index: MicroBatchIndex) -> tuple[np.ndarray, np.ndarray]:
        """Return which images a micro-batch has, int64 [b], and their numbers for crop and flip, [b, DRAWS]."""
        attempt, rows = index
        indices = sample_order(self.seed, len(self.source), attempt, self.batch_size)[rows]
        return indices, generator(self.seed, "augment", attempt).random((rows.stop, DRAWS))[rows]

    def _images(self, index: MicroBatchIndex) -> LoadedMicroBatch:
        attempt, rows = index
        indices, draws = self.drawn(index)
        whole_batch = getattr(self.source, "batch", None)
        if whole_batch is not None:
            return LoadedMicroBatch(self.augment.batch(whole_batch(indices), draws))
        met = BadImages(len(self.source), self.bad.max_bad, self.bad.removed)  # of this micro-batch alone
        parts: list[Tensor] = []
        held: list[np.ndarray] = []
        done, values = 0, 0
        for row, place in enumerate(indices.tolist(), start=1):
            others = replacements(self.seed, len(self.source), attempt, rows.start + row - 1)
            held.append(read_or_replace(self.source, place, met, others, self.images))
            values += held[-1].size
            if values > HELD or row == len(indices):
                parts.append(self._augmented(indices[done:row], held, draws[done:row]))
                held, done, values = [], row, 0
        return LoadedMicroBatch(parts[0] if len(parts) == 1 else torch.cat(parts), tuple(met))

    def _augmented(self, indices: np.ndarray, images: list[np.ndarray], draws: np.ndarray) -> Tensor:
        """Crop and flip some images of a micro-batch; the message of a UserError begins with the image's name."""
        try:
            return self.augment.batch(images, draws)
        except UserError:
            for place, image, row in zip(indices.tolist(), images, draws, strict=True):
                with named_in_errors(self.source, place):
                    self.augment(image, row)
            raise


def read(source: ImageSource, index: int, bad: BadImages | None = None, images: Images | None = None) -> np.ndarray:
    """Read an image for a measurement: if ``bad`` is given, the next readable one stands in for an unreadable one.

    Otherwise (an evaluation counts every image) the error is raised. ``images`` are those of ``source``, reduced.
    """
    if bad is None:
        return source[index]
    following = ((index + step) % len(source) for step in range(1, len(source)))
    return read_or_replace(source, index, bad, following, source if images is None else images)


def read_or_replace(
    source: ImageSource, index: int, bad: BadImages, others: Iterator[int], images: Images
) -> np.ndarray:
    """Read an image, or the first readable one of ``others``; what cannot be read is added to ``bad``.

    Raises UserError if there are too many of those.
    """
    for place in itertools.chain([index], others):
        try:
            return images[place]
        except UnreadableImage as error:
            name = image_name(source, place)
            bad.add([BadImage(place, name, problem_of(error, name))])
            bad.refuse_too_many()
    raise UserError(f"{source.name}: none of its {len(source)} images can be decoded; check the files")


class MicroBatchSampler(Sampler[MicroBatchIndex]):
    """Batch sampler: yields the micro-batches of one rank for ever, starting at an attempt."""

    def __init__(self, shard: RankShard, first_attempt: int) -> None:
        self.shard, self.first_attempt = shard, first_attempt

    def __iter__(self) -> Iterator[MicroBatchIndex]:
        attempt = self.first_attempt
        while True:
            yield from (MicroBatchIndex(attempt, rows) for rows in self.shard.rows())
            attempt += 1


def micro_batches(
    data: MicroBatchDataset, shard: RankShard, *, first_attempt: int, workers: int, pin_memory: bool = False
) -> Iterator[Tensor]:
    """Yield the micro-batches of this rank for ever, starting at an attempt."""
    indices = MicroBatchSampler(shard, first_attempt)
    iterator = _with_workers(data, indices, workers, pin_memory) if workers else map(data.__getitem__, indices)
    # Run when the stream is closed, or else before multiprocessing waits for its processes at the end of the program.
    end = multiprocessing.util.Finalize(None, _end_workers, args=(iterator,), exitpriority=10)
    try:
        for item in iterator:
            if isinstance(item, LoadedMicroBatch | TooManyBadImages):
                data.bad.add(item.bad if isinstance(item, LoadedMicroBatch) else item.images)
                data.bad.refuse_too_many()
            if isinstance(item, UserError):
                raise item
            images = torch.as_tensor(item.images)
            yield images.pin_memory() if pin_memory and not workers else images  # those of workers are
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not _is_of_a_killed_worker(error, workers):
            raise
        raise UserError(
            "a loader worker was killed, probably because memory or /dev/shm is full: "
            "use fewer workers, or none with --data.workers 0"
        ) from None
    finally:
        end()


def _is_of_a_killed_worker(error: Exception, workers: int) -> bool:
    """Return whether the loader failed because a worker is gone, not because of an image.

    torch's notice of a dead child is a RuntimeError; whoever was just receiving a tensor from that child sees the
    connection break first. Errors that a worker raised itself arrive as "Caught ... in DataLoader worker process".
    """
    if isinstance(error, RuntimeError):
        return str(error).startswith("DataLoader worker")
    return workers > 0 and not str(error).startswith("Caught ")


def _unchanged(item: Any) -> Any:
    return item


def _with_workers(
    data: MicroBatchDataset, indices: MicroBatchSampler, workers: int, pin_memory: bool
) -> Iterator[LoadedMicroBatch | UserError]:
    """Start the workers; raises UserError if the machine has no room for them."""
    loader: DataLoader[LoadedMicroBatch | UserError] = DataLoader(
        data,
        batch_size=None,  # an index already stands for a whole micro-batch
        collate_fn=_unchanged,  # by default, an array is converted to a tensor again
        sampler=indices,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # ours: the global one belongs to the caller
        # Forked workers need no `if __name__ == "__main__"` in the caller's script; they only read images.
        multiprocessing_context="fork" if sys.platform == "linux" else None,
        worker_init_fn=_begin_worker,
    )
    try:
        # As many semaphores as torch needs: its half-built iterator would print a traceback when it is freed.
        _ = [multiprocessing.Semaphore() for _ in range(8 * (workers + 1))]
        return iter(loader)
    except OSError as error:  # their semaphores lie in /dev/shm as well
        raise UserError(
            f"data.workers = {workers}: loader workers cannot be started ({error.strerror}); enlarge /dev/shm "
            "(docker run --shm-size 1g), or load images without workers: --data.workers 0"
        ) from None


def _end_workers(iterator: Any) -> None:
    """Kill the loader workers: they only read images, and one that waits for a stalled drive would never end."""
    workers = getattr(iterator, "_workers", [])
    if workers and iterator._worker_pids_set:  # or else their death would count as an accident
        _remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False
    for worker in workers:
        worker.kill()


def _begin_worker(_worker: int) -> None:
    """Let the parent decide when its worker ends: after it has saved, or at once if it dies.

    Stop signals sent to the whole process group are ignored. A worker that waits for a stalled drive would outlive
    a killed parent, so on Linux the kernel ends it (prctl, PR_SET_PDEATHSIG).
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class ResizedImages:
    """A labelled source for evaluation: batches, resized to the encoder's input, in index order.

    ``limit`` subsamples the source evenly to at most this many images.
    """

    def __init__(self, source: ImageSource, resize: ResizeToInput, *, limit: int | None = None) -> None:
        count = min(len(source), limit or len(source))
        self.indices = np.arange(count) * len(source) // count
        self.source, self.resize, self.name = source, resize, source.name
        self.labels = {name: values[self.indices] for name, values in source.labels.items()}
        self.classes: list[str] = getattr(source, "classes", [])
        self.unlabelled: str = getattr(source, "unlabelled", "for instance one folder per class")

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Yield [b, C, H, W], uint8 or float32 in 0..1."""
        for start in range(0, len(self), batch_size):
            yield resized(self.source, self.indices[start : start + batch_size].tolist(), self.resize)


def resized(
    source: ImageSource,
    indices: Sequence[int],
    resize: ResizeToInput,
    bad: BadImages | None = None,
    images: Images | None = None,
) -> Tensor:
    """Return images by their indices, resized to the encoder's input: uint8 or float32 [b, C, H, W]."""
    whole_batch = getattr(source, "batch", None)
    if whole_batch is not None:
        return resize(whole_batch(indices))
    return torch.stack([_resized_one(source, index, resize, bad, images) for index in indices])


def _resized_one(
    source: ImageSource, index: int, resize: ResizeToInput, bad: BadImages | None, images: Images | None
) -> Tensor:
    pixels = read(source, index, bad, images)
    with named_in_errors(source, index):
        return resize(pixels)


@contextlib.contextmanager
def named_in_errors(source: ImageSource, index: int) -> Iterator[None]:
    """Begin the message of a UserError with the name of the image that it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{image_name(source, index)}: {error}") from None


def pixel_statistics(
    source: ImageSource, resize: ResizeToInput, *, sample: int = 512, bad: BadImages | None = None
) -> tuple[list[float], list[float]]:
    """Return per-channel mean and standard deviation, in 0..1, of images spread evenly over the source."""
    count = min(sample, len(source))
    bad = BadImages(len(source), 0.0) if bad is None else bad
    small = TrainingImages(source, resize.reduction)
    if resize.value_range is not None:
        images = (resized(source, [i * len(source) // count], resize, bad, small) for i in range(count))
        return _float_statistics(images, resize.channels)
    counts = torch.zeros(resize.channels, 256, dtype=torch.int64)  # exact, and small whatever the images' size
    for i in range(count):
        pixels = resized(source, [i * len(source) // count], resize, bad, small)[0]
        counts += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in pixels])
    values, pixels_of_each = torch.arange(256).double() / 255.0, counts.sum(1).double()
    means = (counts * values).sum(1) / pixels_of_each
    squares = (counts * (values - means[:, None]).square()).sum(1)
    return _rounded(means, (squares / (pixels_of_each - 1).clamp_min(1)).sqrt())


def _float_statistics(images: Iterable[Tensor], channels: int) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel of float images [1, C, H, W]."""
    pixels, sums, squares = 0, torch.zeros(channels).double(), torch.zeros(channels).double()
    for image in images:
        values = image.double().flatten(2)[0]
        pixels += values.shape[1]
        sums += values.sum(1)
        squares += values.square().sum(1)  # in float64, of values in 0..1: nothing is lost to cancellation
    means = sums / pixels
    return _rounded(means, ((squares - pixels * means.square()) / max(pixels - 1, 1)).clamp_min(0).sqrt())


def _rounded(means: Tensor, deviations: Tensor) -> tuple[list[float], list[float]]:
    mean = [round(value, 4) for value in means.tolist()]
    deviation = [round(max(value, 0.01), 4) for value in deviations.tolist()]
    return mean, deviation
