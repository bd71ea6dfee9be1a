"""Images and masks joined into the micro-batches of one rank, on its device."""

from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from hjepa.data.ahead import ahead
from hjepa.data.bad_images import BadImage
from hjepa.data.loader import MicroBatchDataset, MicroBatchSampler, RankShard, micro_batches
from hjepa.data.resident import Draw, ResidentImages
from hjepa.errors import UserError
from hjepa.masking import MaskSampler
from hjepa.models.encoder import normalise_pixels
from hjepa.training.trainer import MicroBatch


class Batches:
    """Joins images and masks of this rank into micro-batches on the device.

    Everything is a function of the attempt (steps taken + steps skipped), so a run can be entered at any
    point, and a skipped step does not get the same batch again.
    """

    def __init__(
        self,
        images: MicroBatchDataset,
        shard: RankShard,
        masks: MaskSampler,
        *,
        contexts: int,
        mean: Sequence[float],
        std: Sequence[float],
        dtype: torch.dtype,
        workers: int,
        accelerator: Accelerator,
        resident: ResidentImages | None = None,
    ) -> None:
        self.images, self.shard, self.masks = images, shard, masks
        self.contexts, self.workers = contexts, workers  # masks per image; loader processes
        self.resident = resident  # the images on the device, if they stay there
        self.accelerator, self.device = accelerator, accelerator.device
        self.on_cuda, self._on_cpu = self.device.type == "cuda", self.device.type == "cpu"
        self.mean, self.std = (
            torch.tensor(values, dtype=dtype, device=self.device).view(-1, 1, 1) for values in (mean, std)
        )

    def __call__(self, first_attempt: int) -> Iterator[list[MicroBatch]]:
        """Yield the micro-batches of each attempt, for ever.

        Raises UserError if an image cannot be read: on all ranks before the same step, with the name of that image.
        A launcher stops the other ranks as soon as one exits, which need not be the one that met the image.
        """
        batches = self._of_this_rank(first_attempt)
        while True:
            batch: list[MicroBatch] = []
            error, known = None, len(self.images.bad)
            try:
                batch = next(batches)
            except UserError as met:
                error = met
            if self.accelerator.num_processes > 1:
                error = self._shared(error, known)
            if error is not None:
                raise error
            yield batch

    def _shared(self, error: UserError | None, known: int) -> UserError | None:
        """Let all ranks know the error of one of them, and the unreadable images met after the first ``known``."""
        new = self.images.bad.since(known)
        flags = self.accelerator.gather(torch.tensor([int(error is not None or bool(new))], device=self.device))
        if not bool(flags.any()):
            return error
        for said, images in gather_object([(str(error or ""), [tuple(image) for image in new])]):
            error = error or (UserError(said) if said else None)
            self.images.bad.add(BadImage(*image) for image in images)
        try:
            self.images.bad.refuse_too_many()
        except UserError as too_many:
            error = error or too_many
        return error

    def _of_this_rank(self, first_attempt: int) -> Iterator[list[MicroBatch]]:
        pixels = self._pixels(first_attempt)
        masks: Iterator[tuple[Tensor, Tensor]] | None = None
        try:
            while True:
                batch = []
                for _ in self.shard.rows():
                    images = next(pixels)
                    # A thread must not be there when loader processes are forked, with the first images.
                    masks = masks or ahead(self._masks(first_attempt))
                    batch.append(self._micro_batch(images, next(masks)))
                yield batch
        finally:
            for stream in (pixels, masks):
                if isinstance(stream, Generator):
                    stream.close()

    def _pixels(self, first_attempt: int) -> Iterator[Tensor | Draw]:
        """Yield the images of micro-batches, or what is to be made of those on the device.

        Where the CPU trains on images in memory they come normalised: at 224 pixels a step would wait for that, too.
        """
        if self.resident is not None:
            return ahead(self._draws(first_attempt, self.resident))
        stream = micro_batches(
            self.images, self.shard, first_attempt=first_attempt, workers=self.workers, pin_memory=self.on_cuda
        )
        if not self._made_ahead:
            return stream
        return ahead(map(self.normalised, stream), depth=1) if self._on_cpu else ahead(stream)  # floats are large

    @property
    def _made_ahead(self) -> bool:
        """Return whether a thread makes the images ready: those in memory, of which none can be unreadable."""
        return hasattr(self.images.source, "batch") and self.workers == 0

    def _draws(self, first_attempt: int, resident: ResidentImages) -> Iterator[Draw]:
        for index in MicroBatchSampler(self.shard, first_attempt):
            draw = resident.draw(*self.images.drawn(index))
            yield Draw(*(self._pinned(part) for part in draw))

    def _masks(self, first_attempt: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield context and targets of micro-batches; the masks of one image are adjacent."""
        each = self.contexts
        for attempt, rows in MicroBatchSampler(self.shard, first_attempt):
            of_rows = slice(each * rows.start, each * rows.stop)
            masks = self.masks.sample(attempt, each * self.shard.batch_size, of_rows)
            yield self._pinned(torch.from_numpy(masks.context)), self._pinned(torch.from_numpy(masks.targets))

    def _micro_batch(self, images: Tensor | Draw, masks: tuple[Tensor, Tensor]) -> MicroBatch:
        context, targets = (self._on_device(part) for part in masks)
        if isinstance(images, Draw):
            assert self.resident is not None
            drawn = Draw(*(None if part is None else self._on_device(part) for part in images))  # type: ignore[arg-type]
            images = self.resident.batch(drawn)
        ready = self._made_ahead and self._on_cpu and self.resident is None
        return MicroBatch(images if ready else self.normalised(images), context, targets)

    def _pinned(self, tensor: Any) -> Any:
        """Return a tensor in memory from which a card copies by itself: for other memory the host waits."""
        return tensor.pin_memory() if tensor is not None and self.on_cuda else tensor

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return images [B, C, H, W], uint8 or in 0..1, on the device and normalised as in training."""
        return normalise_pixels(self._on_device(pixels), self.mean, self.std)

    def _on_device(self, tensor: Tensor) -> Tensor:
        # Only CUDA finishes an asynchronous copy before its source memory is reused.
        return tensor.to(self.device, non_blocking=self.on_cuda)
