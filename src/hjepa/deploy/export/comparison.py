"""How far an export, read back by another library, lies from the encoder it was made of."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from hjepa.deploy.export.check_images import CheckImages
from hjepa.deploy.export.export_format import ExportFormat, ImageProcessor, Reloaded
from hjepa.deploy.export.portable import PortableEncoder
from hjepa.errors import UserError
from hjepa.models.frozen import FrozenEncoder

CLOSE = 1e-5  # float32 sums in another order
WRONG = 1e-3  # of the largest feature: not rounding any more, another network


@dataclass(frozen=True)
class Pixels:
    """How far another library's preprocessing lies from ours, from the file of an image on."""

    largest: float  # pixel difference, in 0..1
    mean: float
    pooled: float  # largest difference of the pooled features that come of it
    pooled_scale: float  # standard deviation of the pooled features over images and dimensions


@dataclass(frozen=True)
class Comparison:
    """The largest absolute differences between our features and those of the reloaded export."""

    reader: str
    tokens: float
    pooled: float
    batches: list[int]
    sizes: list[tuple[int, int]]  # (H, W)
    pixels: Pixels | None = None  # None if the library has no preprocessing of its own

    @property
    def largest(self) -> float:
        """Return the largest absolute difference."""
        return max(self.tokens, self.pooled)

    def to_json(self) -> dict[str, Any]:
        """Return the stable form of ``hjepa export --json``."""
        return {"largest_difference": self.largest, **asdict(self)}


@torch.no_grad()
def compare(
    export: ExportFormat, reloaded: Reloaded, encoder: FrozenEncoder, images: CheckImages, level: int | None
) -> Comparison:
    """Compare features in float32, for one image and for all, and in several sizes if the format takes any.

    Raises UserError if the difference is not one of rounding.
    """
    ours = PortableEncoder(encoder, level)
    own_size = tuple(encoder.card["preprocess"]["image_size"])
    sizes = [own_size, *(_other_sizes(ours, own_size) if export.any_size else [])]
    tokens_apart, pooled_apart, counts = 0.0, 0.0, []
    for size in sizes:
        batch = images.batch(encoder, size)
        counts = sorted({1, len(batch)})
        for count in counts:
            expected = ours(batch[:count])
            tokens, pooled = reloaded.network(batch[:count])
            largest = float(expected["tokens"].abs().max())
            if tokens.shape != expected["tokens"].shape:
                raise UserError(
                    f"--to {export.name}: {reloaded.reader} returns tokens {list(tokens.shape)} for "
                    f"{list(expected['tokens'].shape)}; nothing was exported"
                )
            tokens_apart = max(tokens_apart, _apart(tokens, expected["tokens"]))
            pooled_apart = max(pooled_apart, _apart(pooled, expected["pooled"]))
            # NaN is not below any limit
            if not max(tokens_apart, pooled_apart) <= WRONG * max(1.0, largest):
                raise UserError(
                    f"--to {export.name}: features differ by up to {max(tokens_apart, pooled_apart):.2g} after "
                    f"{reloaded.reader} has read them back, which is not rounding; nothing was exported"
                )
    pixels = None if reloaded.processor is None else compare_pixels(reloaded, reloaded.processor, encoder, images)
    return Comparison(reloaded.reader, tokens_apart, pooled_apart, counts, sizes, pixels)


def compare_pixels(
    reloaded: Reloaded, processor: ImageProcessor, encoder: FrozenEncoder, images: CheckImages
) -> Pixels | None:
    """Compare the other library's preprocessing of the same images with ours; None if it does not take such images."""
    channels = len(encoder.mean)
    if channels not in (1, 3, 4) or encoder.value_range is not None:
        return None
    ours = images.batch(encoder)
    theirs = [processor(images.as_opened(number, channels)) for number in range(len(images.raw))]
    if any(each.shape != ours.shape[1:] for each in theirs):
        return None  # it does not resize: the caller has to
    unit = torch.stack(theirs) * encoder.std + encoder.mean
    ours_pooled, theirs_pooled = reloaded.network(ours)[1], reloaded.network(unit)[1]
    return Pixels(
        largest=_apart(unit, ours),
        mean=float((unit - ours).abs().mean()),
        pooled=_apart(theirs_pooled, ours_pooled),
        pooled_scale=float(ours_pooled.std()),
    )


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def _other_sizes(encoder: PortableEncoder, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return a smaller size, and one that is wider than high, both divisible by the patch size."""
    patch, smallest = encoder.frozen.encoder.patch_size, encoder.smallest_grid
    rows, columns = (max(smallest, side // patch) for side in size)
    return [(smallest * patch, max(smallest, columns // 2) * patch), ((rows + 1) * patch, (columns + 3) * patch)]
