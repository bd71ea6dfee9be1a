"""Mask sampler ``ijepa-reference``: the distribution of the original I-JEPA sampler, including its bugs.

For parity studies only; ``multiblock.py`` is the sampler to train with. Written from a description of the
behaviour, so it draws other random numbers than the published code, from the same distribution:

* one random number per kind of block and step drives both scale and aspect ratio, so large blocks are
  always the tall ones;
* a side as long as the grid is cut to one less, and positions leave out the last one, so the last row and
  column of the grid are never seen and never predicted (27 of 196 patches at 14x14, 15 of 64 at 8x8);
* the context block is drawn again, up to 20 times, until more than ``min_keep`` of its patches are outside
  the targets; then the last target is forgiven and it is tried 20 times more, and so on;
* all contexts are cut to the shortest of the batch by dropping the highest indices, so the batch size sets
  the context size and the bottom of the image is hardly ever seen.

The published code tries for ever when a block cannot have more than ``min_keep`` patches; here the
constructor refuses that. The published code also cuts per process; here the batch is the global one.
"""

import numpy as np

from hjepa.errors import UserError
from hjepa.masking.multiblock import CONTEXT_ASPECT, Flags, Ints, Masks, MaskSettings, block_offsets, check_ranges
from hjepa.randomness import generator

NUM_BINS = 4096  # values of the single random number, so that all reachable sizes can be checked in advance
TRIES = 20  # context positions per number of targets kept out


class ReferenceSampler:
    """Samples masks like the original sampler, as a pure function of ``(seed, step, batch)``.

    ``min_keep``: a block needs more patches than this. The released configurations say 10, which cannot
    end on grids below 9x9; 4 changes nothing on larger ones, where a context this small does not occur.
    ``settings.min_context`` is not used. Raises ``UserError`` where the published code would never end.
    """

    def __init__(
        self, grid: tuple[int, int], settings: MaskSettings | None = None, *, seed: int = 0, min_keep: int = 4
    ) -> None:
        self.grid = grid
        self.settings = settings or MaskSettings()
        self.seed = seed
        self.min_keep = min_keep
        check_ranges(grid, self.settings)
        self._target_sizes = reference_sizes(grid, self.settings.target_scale, self.settings.target_aspect)
        self._context_sizes = reference_sizes(grid, self.settings.context_scale, CONTEXT_ASPECT)
        sizes = {"target_scale": self._target_sizes, "context_scale": self._context_sizes}
        _check_ends(grid, sizes, min_keep)

    def sample(self, step: int, batch: int, rows: slice = slice(None)) -> Masks:
        """Return the masks of ``rows`` of the global ``batch``: the same as those rows of the whole."""
        visible, targets = self.before_cut(step, batch)
        shortest = int(np.count_nonzero(visible, axis=1).min())
        lowest = visible & (np.cumsum(visible, axis=1) <= shortest)
        context = np.nonzero(lowest)[1].reshape(batch, shortest)
        return Masks(context[rows], targets[rows])

    def before_cut(self, step: int, batch: int) -> tuple[Flags, Ints]:
        """Return the visible patches [B, N] before the cut to the shortest, and the targets [B, K, T]."""
        random = generator(self.seed, "masks", step)
        target = self._target_sizes[random.integers(NUM_BINS)]
        context = self._context_sizes[random.integers(NUM_BINS)]
        corners = self._corners(random, target, (batch, self.settings.num_targets))
        targets = corners[..., None] + block_offsets(self.grid, target)
        return self._visible(random, context, targets), targets

    def _visible(self, random: np.random.Generator, context: Ints, targets: Ints) -> Flags:
        """Draw context blocks until each has enough patches [B, N] outside the targets still kept out."""
        batch, num_targets, _ = targets.shape
        offsets = block_offsets(self.grid, context)
        visible = np.zeros((batch, self.grid[0] * self.grid[1]), dtype=np.bool_)
        short = np.arange(batch)
        for kept_out in range(num_targets, -1, -1):
            for _ in range(TRIES):
                corners = self._corners(random, context, (len(short),))
                rows = np.arange(len(short))[:, None]
                trial = np.zeros((len(short), visible.shape[1]), dtype=np.bool_)
                trial[rows, corners[:, None] + offsets] = True
                trial[rows, targets[short, :kept_out].reshape(len(short), -1)] = False
                visible[short] = trial
                short = short[np.count_nonzero(trial, axis=1) <= self.min_keep]
                if not len(short):
                    return visible
        raise AssertionError("a context block with no target kept out has more than min_keep patches")

    def _corners(self, random: np.random.Generator, size: Ints, shape: tuple[int, ...]) -> Ints:
        """Return upper left patches; the last position of each axis is left out, as published."""
        row = random.integers(self.grid[0] - size[0], size=shape)
        column = random.integers(self.grid[1] - size[1], size=shape)
        return row * self.grid[1] + column


def reference_sizes(grid: tuple[int, int], scale: tuple[float, float], aspect: tuple[float, float]) -> Ints:
    """Return (h, w) for every value of the single random number: [NUM_BINS, 2], at most one less than the grid."""
    area = np.floor(np.linspace(*scale, NUM_BINS) * (grid[0] * grid[1]))  # whole patches
    ratio = np.linspace(*aspect, NUM_BINS)
    sides = np.rint(np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], axis=-1))
    sizes: Ints = np.minimum(sides, np.array(grid) - 1).astype(np.int64)
    return sizes


def _check_ends(grid: tuple[int, int], sizes: dict[str, Ints], min_keep: int) -> None:
    """Raise ``UserError`` when one of the reachable ``sizes`` has no more than ``min_keep`` patches."""
    smallest, name = min((int(of_kind.prod(axis=1).min()), name) for name, of_kind in sizes.items())
    if smallest > min_keep:
        return
    remedy = f"the largest possible is {smallest - 1}" if smallest > 1 else "use a larger scale or grid"
    raise UserError(
        f"masking.min_keep = {min_keep} cannot be satisfied: masking.{name} yields blocks of {smallest} patches on "
        f"a {grid[0]}x{grid[1]} grid, and each block needs more than min_keep; {remedy}"
    )
