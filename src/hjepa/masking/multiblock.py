"""Context and target blocks of a whole batch at once: provably finite, every patch reachable.

Differences from the original I-JEPA sampler, whose bugs ``reference.py`` reproduces for parity studies:

* *Scale and aspect ratio are drawn independently*, each from a lattice of 256 bins including both ends.
  The lattice makes the reachable block sizes a finite list, so that the constructor can check them all:
  a setting that could fail in step 100,000 is refused before step 0.
* *A block may fill the grid and touch the last row and column.* Aspect is height / width. A block has
  ``h = sqrt(scale * N * aspect)`` and ``w = sqrt(scale * N / aspect)`` rows and columns; when one side is
  longer than the grid it is cut and the other side takes up the area. So ``scale`` holds on oblong grids
  too, and a context of aspect 1 fills a 3x7 grid instead of 3x5 of it.
* *One size per kind and step, positions per image*, so that all target blocks of a step are equally long.
* *The number of visible patches V depends on the two block sizes alone*, never on the batch: it is a low
  quantile of the visible counts over a fixed pool of placements. Cutting to the shortest of the batch
  instead would let the batch size set the context size (30 % of the patches at batch 32, 26 % at 256).
  Placements that leave fewer than V are drawn again, a bounded number of times; then one of four
  placements is taken that provably leaves the most. Surplus visible patches are dropped at random, not by
  index, which would take them from the bottom of every image.

Block scheme: Assran et al., 2023 (arXiv:2301.08243), section 3 and appendix A.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from hjepa.errors import UserError
from hjepa.randomness import generator

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Words = NDArray[np.uint32]

NUM_BINS = 256  # of scale and of aspect ratio: eight random bits select one without bias
ROUNDS = 8  # placements tried per image; about one in ten fails, so one in 10^8 images needs the last resort
POOL = 256  # placements that stand for a pair of sizes when V is chosen ...
POOL_SHARE = 0.1  # ... and the share of them that may have fewer than V visible patches

CONTEXT_ASPECT = (1.0, 1.0)  # context blocks are square, as published (arXiv:2301.08243, appendix A)


@dataclass(frozen=True)
class Masks:
    """Visible and target patches of a batch, as row-major indices on the grid."""

    context: Ints  # [B, V], sorted within a row, no repeats
    targets: Ints  # [B, K, T], each block in row-major order; blocks of one image may overlap each other


class MaskSampler(Protocol):
    """The interface of mask samplers: those of this package, or your own."""

    def sample(self, step: int, batch: int, rows: slice = slice(None)) -> Masks:
        """Return the masks of ``rows`` of the global ``batch``."""
        ...


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """Number, sizes and shapes of blocks; the defaults are the published ones (arXiv:2301.08243, appendix A)."""

    num_targets: int = 4
    target_scale: tuple[float, float] = (0.15, 0.2)  # fraction of the grid's area, lowest and highest
    target_aspect: tuple[float, float] = (0.75, 1.5)  # height / width
    context_scale: tuple[float, float] = (0.85, 1.0)
    min_context: int = 1  # visible patches that every image keeps; above the usual counts, masks grow alike


class MultiBlockSampler:
    """Samples the masks of a step as a pure function of ``(seed, step)``; see the module docstring.

    Raises ``UserError`` for a grid or settings that cannot give every image ``min_context`` visible
    patches; the message names the nearest setting that can.
    """

    def __init__(self, grid: tuple[int, int], settings: MaskSettings | None = None, *, seed: int = 0) -> None:
        self.grid = grid
        self.settings = settings or MaskSettings()
        self.seed = seed
        check_ranges(grid, self.settings)
        check_feasible(grid, self.settings)
        self._context_sizes = block_sizes(grid, self.settings.context_scale, CONTEXT_ASPECT)
        self._target_sizes = block_sizes(grid, self.settings.target_scale, self.settings.target_aspect)
        self._placements: dict[tuple[int, ...], _Placement] = {}

    def sample(self, step: int, batch: int, rows: slice = slice(None)) -> Masks:
        """Return the masks of ``rows`` of the global ``batch``: the same as those rows of the whole."""
        head = 4  # 64-bit words: scale and aspect of the context block, then of the target blocks
        blocks = self.settings.num_targets + 1
        corner_words = ROUNDS * blocks * 2
        row_words = corner_words + self.grid[0] * self.grid[1]
        row_words += row_words % 2  # two 32-bit words to a 64-bit one, and none shared by two images
        raw = generator(self.seed, "masks", step).bit_generator.random_raw(head + batch * row_words // 2)
        placement = self._placement([int(word) >> 56 for word in raw[:head]])
        words = raw[head:].view(np.uint32).reshape(batch, row_words)[rows]
        corners, visible = placement.place(words[:, :corner_words].reshape(-1, ROUNDS, blocks, 2))
        keys = words[:, corner_words : corner_words + visible.shape[1]]
        context = choose(visible, keys, placement.num_visible)
        return Masks(context, corners[:, 1:, None] + placement.target_offsets)

    def _placement(self, bins: list[int]) -> "_Placement":
        """Return the placement for sampled ``bins`` (scale and aspect of the context, then of the targets)."""
        context = self._context_sizes[bins[0], bins[1]]
        target = self._target_sizes[bins[2], bins[3]]
        key = (*context.tolist(), *target.tolist())
        if key not in self._placements:
            self._placements[key] = _Placement(self.grid, self.settings, context, target)
        return self._placements[key]


class _Placement:
    """Places blocks of one pair of sizes; ``num_visible`` (V) is a pure function of sizes and settings."""

    def __init__(self, grid: tuple[int, int], settings: MaskSettings, context: Ints, target: Ints) -> None:
        self.grid: Ints = np.array(grid)
        self.sizes = np.stack([context] + [target] * settings.num_targets)  # [1 + K, 2]
        self.target_offsets = block_offsets(grid, target)
        self.in_context = windows(grid, block_offsets(grid, context))
        self.off_target = windows(grid, self.target_offsets, inside=False)
        shape = (POOL, settings.num_targets + 1, 2)
        pool = generator(0, "mask-pool", *context, *target).integers(2**32, size=shape, dtype=np.uint32)
        counts = np.sort(np.count_nonzero(self.visible(self.corners(pool)), axis=1))
        # No placement leaves more than the last resort of `place`, and check_feasible holds min_context
        # to that, so neither part of this maximum can ask for more than can be had.
        self.num_visible = max(settings.min_context, int(counts[int(POOL_SHARE * POOL)]))

    def place(self, words: Words) -> tuple[Ints, Flags]:
        """Return upper left corners [B, 1 + K] and visible patches [B, N] of ``words`` [B, ROUNDS, 1 + K, 2].

        Image i takes the first of its rounds that leaves at least V visible patches.
        """
        corners = self.corners(words[:, 0])
        visible = self.visible(corners)
        short = np.flatnonzero(np.count_nonzero(visible, axis=1) < self.num_visible)
        for attempt in range(1, ROUNDS + 1):
            if not len(short):
                break
            if attempt < ROUNDS:
                corners[short] = self.corners(words[short, attempt])
            else:
                corners[short] = self.apart(words[short, 0, 0, 0])
            again = self.visible(corners[short])
            visible[short] = again
            short = short[np.count_nonzero(again, axis=1) < self.num_visible]
        return corners, visible

    def corners(self, words: Words) -> Ints:
        """Return upper left patches, uniform over all positions, for ``words`` [B, 1 + K, 2]."""
        # Multiply-and-shift takes 32 random bits to 0 .. n-1 (Lemire, 2019); its bias is below n / 2^32.
        places = (self.grid - self.sizes + 1).astype(np.uint64)
        return self._patches(((words * places) >> np.uint64(32)).astype(np.int64))

    def apart(self, words: Words) -> Ints:
        """Return corners for ``words`` [B]: all targets in one corner of the grid, the context opposite.

        This leaves the most visible patches of all placements: stacked targets hide the fewest patches,
        and blocks in opposite corners overlap least.
        """
        targets_last = np.stack([words & 1, words >> 1 & 1], axis=-1).astype(np.int64)  # row, column
        at_end = np.repeat(targets_last[:, None], len(self.sizes), axis=1)
        at_end[:, 0] = 1 - targets_last
        return self._patches(at_end * (self.grid - self.sizes))

    def _patches(self, positions: Ints) -> Ints:
        """Return the row-major patches [...] at ``positions`` (row, column) [..., 2]."""
        patches: Ints = positions[..., 0] * self.grid[1] + positions[..., 1]
        return patches

    def visible(self, corners: Ints) -> Flags:
        """Return which patches [B, N] are in the context block and in no target block."""
        seen = self.in_context[corners[:, 0]]
        for block in range(1, len(self.sizes)):
            seen &= self.off_target[corners[:, block]]
        return seen


def choose(visible: Flags, words: Words, count: int) -> Ints:
    """Return ``count`` visible patches per image [B, count], at random and sorted, for ``words`` [B, N]."""
    index_bits = (visible.shape[1] - 1).bit_length()
    index = np.arange(visible.shape[1], dtype=np.uint32)
    # One integer is both the random key (31 bits less those of the index) and the patch that it stands
    # for; hidden patches are all ones, above every key. Then the smallest `count` are the chosen.
    keys = (words >> np.uint32(1)) >> np.uint32(index_bits) << np.uint32(index_bits) | index
    keys |= (visible.view(np.int8) - np.int8(1)).astype(np.int32).view(np.uint32)
    keys.partition(count - 1, axis=1)
    chosen = keys[:, :count] & np.uint32((1 << index_bits) - 1)
    chosen.sort(axis=1)
    return chosen.astype(np.int64)


def block_offsets(grid: tuple[int, int], size: Ints) -> Ints:
    """Return the patches [h * w] of a block of ``size`` (h, w), relative to its upper left patch."""
    return (np.arange(size[0])[:, None] * grid[1] + np.arange(size[1])).ravel()


def windows(grid: tuple[int, int], offsets: Ints, *, inside: bool = True) -> Flags:
    """Return a view [N, N]: row p flags the patches inside (or outside) the block that begins at patch p.

    A block that stays inside the grid is the same run of flags wherever it lies, only shifted: all rows
    are windows on one array of 2 N flags.
    """
    patches = grid[0] * grid[1]
    flags = np.full(2 * patches, not inside)
    flags[patches + offsets] = inside
    return sliding_window_view(flags, patches)[patches:0:-1]


def block_sizes(grid: tuple[int, int], scale: tuple[float, float], aspect: tuple[float, float]) -> Ints:
    """Return (h, w) for every bin of scale and of aspect (height / width): [NUM_BINS, NUM_BINS, 2]."""
    area = np.linspace(*scale, NUM_BINS)[:, None] * (grid[0] * grid[1])
    ratio = np.linspace(*aspect, NUM_BINS)[None, :]
    height, width = np.sqrt(area * ratio), np.sqrt(area / ratio)
    # A side that is cut to the grid hands its area to the other one. Cutting before rounding keeps both
    # sides monotone in the scale, which `nearest_target_scale` needs.
    height, width = (
        np.where(width > grid[1], np.minimum(area / grid[1], grid[0]), np.minimum(height, grid[0])),
        np.where(height > grid[0], np.minimum(area / grid[0], grid[1]), np.minimum(width, grid[1])),
    )
    return np.maximum(np.floor(np.stack([height, width], axis=-1) + 0.5), 1).astype(np.int64)


def different_sizes(sizes: Ints) -> Ints:
    """Return the different (h, w) among ``sizes`` [..., 2]: [S, 2]."""
    base = int(sizes.max()) + 1
    present = np.flatnonzero(np.bincount((sizes[..., 0] * base + sizes[..., 1]).ravel()))
    return np.stack(np.divmod(present, base), axis=-1)


def most_visible(grid: tuple[int, int], settings: MaskSettings) -> int:
    """Return how many visible patches the best placement leaves for the worst reachable pair of sizes.

    The best placement has all targets in one corner of the grid and the context block in the opposite one.
    """
    context = different_sizes(block_sizes(grid, settings.context_scale, CONTEXT_ASPECT))
    target = different_sizes(block_sizes(grid, settings.target_scale, settings.target_aspect))
    return most_visible_of_sizes(grid, context, target)


def most_visible_of_sizes(grid: tuple[int, int], context: Ints, target: Ints) -> int:
    """Return the same for any of the given (h, w), context [S, 2] and target [R, 2]."""
    area = context.prod(axis=-1)
    shared = np.maximum(context[:, None] + target - np.array(grid), 0).prod(axis=-1)
    return int((area[:, None] - shared).min())


def check_ranges(grid: tuple[int, int], settings: MaskSettings) -> None:
    """Raise ``UserError`` for a value that no grid could make sense of, or a grid below 2x2."""
    if min(grid) < 2:
        raise UserError(f"a {grid[0]}x{grid[1]} grid is too small for masks; the smallest possible is 2x2")
    for name in ("target_scale", "context_scale"):
        low, high = getattr(settings, name)
        if not 0 < low <= high <= 1:
            rule = "two fractions of the grid, 0 < low <= high <= 1"
            raise UserError(f"masking.{name} = ({low}, {high}) must be {rule}")
    low, high = settings.target_aspect
    if not 0 < low <= high < np.inf:
        raise UserError(f"masking.target_aspect = ({low}, {high}) must be two ratios height / width, 0 < low <= high")
    for name in ("num_targets", "min_context"):
        value = getattr(settings, name)
        if value < 1:
            raise UserError(f"masking.{name} = {value} is too small; the smallest possible is 1")


def check_feasible(grid: tuple[int, int], settings: MaskSettings) -> None:
    """Raise ``UserError`` unless all reachable sizes can leave ``min_context`` patches visible."""
    most = most_visible(grid, settings)
    where = f"on a {grid[0]}x{grid[1]} grid"
    if most >= settings.min_context:
        return
    if most > 0:
        raise UserError(
            f"masking.min_context = {settings.min_context} is more than the blocks can leave visible {where}; "
            f"the largest possible is {most}"
        )
    low, high = settings.target_scale
    nearest = nearest_target_scale(grid, replace(settings, min_context=1))
    message = (
        f"masking.target_scale = ({low}, {high}) leaves no context patch {where}; "
        f"the nearest possible is ({nearest[0]}, {nearest[1]})"
    )
    most = most_visible(grid, replace(settings, target_scale=nearest))
    if most < settings.min_context:
        message += f" with masking.min_context = {most}"
    raise UserError(message)


def nearest_target_scale(grid: tuple[int, int], settings: MaskSettings) -> tuple[float, float]:
    """Return the target scale with the largest upper end that still leaves ``min_context`` patches.

    Sides grow with the scale, so feasibility is monotone in it and bisection finds the end. It exists for
    ``min_context = 1``: a target of less than one patch's area is one row or one column, or less, and no
    such block hides all of a context block in the opposite corner of a grid of at least 2x2.
    """
    steps = 10 ** max(3, len(str(grid[0] * grid[1])))  # three decimals, or as many as one patch needs
    good, bad = 1, int(np.ceil(settings.target_scale[1] * steps))

    def scale(end: int) -> tuple[float, float]:
        return (min(settings.target_scale[0], end / steps), end / steps)

    while bad - good > 1:
        middle = (good + bad) // 2
        if most_visible(grid, replace(settings, target_scale=scale(middle))) >= settings.min_context:
            good = middle
        else:
            bad = middle
    return scale(good)
