"""What goes into a probe (pooled features, raw pixels, a validation split) and what comes out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import train_test_split
from torch import Tensor

from hjepa.errors import UserError
from hjepa.randomness import generator

POOLINGS = ("avg", "last4", "grid4")
"""``avg``: mean over the tokens of the last block, as published for I-JEPA (Assran et al., 2023).
``last4``: these means of the last four blocks, concatenated. ``grid4``: the last block averaged
within 4 x 4 cells of the grid, cells concatenated."""

LAST_BLOCKS = 4
GRID_CELLS = 4


class Encoder(Protocol):
    """A frozen encoder: normalises pixels itself, eval mode, no gradient."""

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Return ``(GH, GW)``, the patch grid of these images."""
        ...

    def block_tokens(self, images: Tensor, last: int) -> list[Tensor]:
        """Return the outputs of the last ``last`` blocks, oldest first, each ``[B, N, D]`` float32."""
        ...


class LabelledImages(Protocol):
    """Images in a fixed order, already of the encoder's size and channels, with their labels."""

    name: str
    labels: dict[str, np.ndarray]
    """Label name -> int64 ``[len]``; empty when there are none."""

    def __len__(self) -> int: ...

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Yield ``[B, C, H, W]``, uint8 or floats in 0..1, in index order."""
        ...


@dataclass(frozen=True)
class Probe:
    """The result of one probe on the test images."""

    accuracy: float
    setting: dict[str, float | int | bool]
    """Hyperparameters, ``{"k": 20, "temperature": 0.07}`` or ``{"C": 0.1, "converged": True}``."""
    correct: np.ndarray
    """bool ``[n_test]``, in the order of the test images; with several random subsets, the fraction correct."""
    draws: np.ndarray | None = None
    """Accuracy of each random training subset ``[n]``, for probes that average over several."""


def probe_device(device: torch.device | None) -> torch.device:
    """Return the device that probes compute on: the given one, or the CPU if it has no float64 (MPS)."""
    return torch.device("cpu") if device is None or device.type == "mps" else device


def check_known(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise ``UserError`` with a suggestion for the first of ``names`` that is not known."""
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"unknown {what} {name!r}: choose from {', '.join(known)}{hint}")


def pool(blocks: Sequence[Tensor], grid: tuple[int, int], pooling: str) -> Tensor:
    """Pool the tokens of the last blocks, each ``[B, N, D]``, oldest first, into ``[B, F]``.

    ``F`` is ``D`` for avg, ``4 D`` for last4 (fewer if there are fewer blocks) and ``cells * D``,
    cell by cell in raster order, for grid4. Cells of a grid that 4 does not divide overlap by a
    row or column (adaptive average pooling); a side shorter than 4 keeps all its rows.
    """
    check_known("pooling", [pooling], POOLINGS)
    last = blocks[-1]
    if last.shape[1] != grid[0] * grid[1]:
        raise ValueError(f"{last.shape[1]} tokens do not fill a grid of {grid[0]} x {grid[1]}")
    if pooling == "avg":
        return last.mean(dim=1)
    if pooling == "last4":
        return torch.cat([tokens.mean(dim=1) for tokens in blocks[-LAST_BLOCKS:]], dim=1)
    on_grid = last.transpose(1, 2).reshape(len(last), -1, *grid)  # [B, D, GH, GW]
    cells = F.adaptive_avg_pool2d(on_grid, (min(GRID_CELLS, grid[0]), min(GRID_CELLS, grid[1])))
    return cells.flatten(2).transpose(1, 2).flatten(1)


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """L2-normalise the features ``[B, F_i]`` of several encoders and concatenate them: each has the same weight.

    The cosine similarity of two images is then the mean over the encoders. Features of a single encoder are unchanged.
    """
    return parts[0] if len(parts) == 1 else torch.cat([F.normalize(part.float(), dim=1) for part in parts], dim=1)


def extract(
    encoder: Encoder | Sequence[Encoder],
    images: LabelledImages,
    poolings: Sequence[str],
    batch_size: int = 256,
    *,
    device: torch.device | None = None,
    autocast: torch.dtype | None = None,
) -> dict[str, np.ndarray]:
    """Return pooled features, float32 ``[n, F]`` per pooling, from one pass over the images (of each encoder).

    Several encoders (the levels of one) are pooled on their own grids and concatenated.
    ``autocast`` is the dtype of matrix products on ``device`` (default: CPU); None: that of the weights.
    Raises ``UserError`` for an unknown pooling, no images, or features that are not finite.
    """
    return extract_beside({"": encoder}, images, poolings, batch_size, device=device, autocast=autocast).features[""]


class Extracted(NamedTuple):
    """Features of the same images by several encoders, and the images themselves."""

    features: dict[str, dict[str, np.ndarray]]  # encoder name -> pooling -> float32 [n, F]
    pixels: Tensor | None  # [n, C, H, W] as the encoders saw them, if they were kept


def extract_beside(
    encoders: Mapping[str, Encoder | Sequence[Encoder]],
    images: LabelledImages,
    poolings: Sequence[str],
    batch_size: int = 256,
    *,
    device: torch.device | None = None,
    autocast: torch.dtype | None = None,
    keep_pixels: bool = False,
    on_images: Callable[[int], None] | None = None,
) -> Extracted:
    """Return the features that ``extract`` returns, of each of the named encoders, reading the images only once.

    ``on_images`` gets the number of images done after each batch. Raises ``UserError`` as ``extract`` does.
    """
    check_known("pooling", poolings, POOLINGS)
    count, device = len(images), device or torch.device("cpu")
    if count == 0:
        raise UserError(f"{images.name} has no images: pass a dataset with at least one")
    last = LAST_BLOCKS if "last4" in poolings else 1
    # Filled in place, since a list of batches would need twice the memory at the end; and on the device, since a copy
    # from a card would wait for it, while the next images could be read.
    filled: dict[str, dict[str, Tensor]] = {name: {} for name in encoders}
    pixels: Tensor | None = None
    done = 0
    for batch in images.batches(batch_size):
        rows = slice(done, done + len(batch))
        if keep_pixels:
            pixels = batch.new_empty(count, *batch.shape[1:]) if pixels is None else pixels
            pixels[rows] = batch
        with torch.no_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None):
            for name, encoder in encoders.items():
                for pooling, found in _pooled(encoder, batch.to(device), poolings, last).items():
                    wide = (count, found.shape[1])
                    filled[name].setdefault(pooling, found.new_empty(wide, dtype=torch.float32))[rows] = found
        done += len(batch)
        if on_images:
            on_images(done)
    if done != count:
        raise ValueError(f"{images.name} announced {count} images but yielded {done}")
    features = {name: {pooling: rows.cpu().numpy() for pooling, rows in each.items()} for name, each in filled.items()}
    for by_pooling in features.values():
        for whole in by_pooling.values():
            _refuse_non_finite(whole, images.name)
    return Extracted(features, pixels)


def _pooled(
    encoder: Encoder | Sequence[Encoder], batch: Tensor, poolings: Sequence[str], last: int
) -> dict[str, Tensor]:
    encoders = encoder if isinstance(encoder, Sequence) else [encoder]
    tokens = [(each.block_tokens(batch, last), each.grid(batch)) for each in encoders]
    return {
        pooling: side_by_side([pool(blocks, grid, pooling) for blocks, grid in tokens]).float() for pooling in poolings
    }


def _refuse_non_finite(rows: np.ndarray, name: str) -> None:
    broken = int((~np.isfinite(rows).all(axis=1)).sum())
    if broken:
        raise UserError(
            f"{broken} of {len(rows)} images of {name} have non-finite features: the weights may have diverged, "
            "evaluate an earlier checkpoint"
        )


def raw_pixels(images: LabelledImages, *, keep_channels: bool = False) -> np.ndarray:
    """Return flattened pixels in 0..1, float32 ``[n, C*H*W]``.

    When all channels of all images are equal (greyscale, repeated for the encoder), only one is kept:
    copies add nothing but time. ``keep_channels`` keeps all of them anyway.
    """
    return flat_pixels(torch.cat(list(images.batches(256))), keep_channels=keep_channels)


def flat_pixels(pixels: Tensor, *, keep_channels: bool = False) -> np.ndarray:
    """Return what ``raw_pixels`` returns, of images ``[n, C, H, W]``."""
    # Bytes until the last line: a quarter of the memory.
    if not keep_channels and bool((pixels == pixels[:, :1]).all()):
        pixels = pixels[:, :1]
    flat: np.ndarray = pixels.flatten(1).cpu().numpy().astype(np.float32)
    if pixels.dtype == torch.uint8:  # images of more than 8 bits are in 0..1 already
        flat /= 255
    return flat


def train_val_split(
    labels: np.ndarray,
    *,
    seed: int,
    name: str = "the training set",
    classes: Sequence[str] = (),
    share: float = 0.1,
    at_most: int = 5000,
) -> tuple[np.ndarray, np.ndarray]:
    """Split training indices into ``(train_idx, val_idx)``, stratified, to choose k or C without the test set.

    A class with a single image stays in ``train_idx``, so every class is fitted. ``val_idx`` has as many
    images as there are other classes, or more: in tiny sets that is above ``share``.
    ``classes`` are the names of the class numbers, if they have any.
    Raises ``UserError`` when there is one class, or no class has two images.
    """
    numbers, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(numbers) < 2:
        only = classes[numbers[0]] if classes else numbers[0]
        raise UserError(
            f"{name} has only one class (class {only}, {len(labels)} images): evaluation needs at least two"
        )
    splittable = np.flatnonzero(sizes[codes] > 1)
    if len(splittable) == 0:
        raise UserError(
            f"{name} has one image per class ({len(numbers)} classes): "
            "choosing k or C needs at least two images in a class"
        )
    val_count = max(min(round(share * len(labels)), at_most), int((sizes > 1).sum()))
    train_idx, val_idx = train_test_split(
        splittable,
        test_size=val_count,
        stratify=codes[splittable],
        random_state=int(generator(seed, "held-out split").integers(2**31)),
    )
    alone = np.flatnonzero(sizes[codes] == 1)
    return np.sort(np.concatenate([train_idx, alone])), np.sort(val_idx)
