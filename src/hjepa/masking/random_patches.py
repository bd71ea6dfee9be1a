"""Mask sampler ``random``: single patches at random instead of blocks, as in masked autoencoders.

He et al., 2022 (arXiv:2111.06377), section 3. The settings are those of blocks, without their shapes:
``context_scale`` is the fraction of the grid that stays visible, and each of ``num_targets`` targets is a random
``target_scale`` of it. Context and targets never overlap; targets overlap each other only if patches run out.
"""

import numpy as np

from hjepa.errors import UserError
from hjepa.masking.multiblock import Masks, MaskSettings, check_ranges
from hjepa.randomness import generator


class RandomPatchSampler:
    """Samples the masks of a step as a pure function of ``(seed, step)``; all patches are equally likely.

    Scales are sampled once per step, patches for each image. Raises ``UserError`` if context and target do not both
    fit on the grid, or if fewer than ``settings.min_context`` patches would be visible.
    """

    def __init__(self, grid: tuple[int, int], settings: MaskSettings | None = None, *, seed: int = 0) -> None:
        self.grid = grid
        self.settings = settings or MaskSettings(num_targets=1, target_scale=(0.7, 0.7), context_scale=(0.3, 0.3))
        self.seed = seed
        check_ranges(grid, self.settings)
        self._check_fits()

    def sample(self, step: int, batch: int, rows: slice = slice(None)) -> Masks:
        """Return the masks of ``rows`` of the global ``batch``: the same as those rows of the whole."""
        random = generator(self.seed, "masks", step)
        visible = self._patches(random.uniform(*self.settings.context_scale))
        size = self._patches(random.uniform(*self.settings.target_scale))
        order = random.random((batch, self.grid[0] * self.grid[1]))[rows].argsort(axis=1)
        hidden = order[:, visible:]
        # Targets take the hidden patches in turn, so they overlap only if there are too few.
        places = np.arange(self.settings.num_targets * size) % hidden.shape[1]
        targets = np.sort(hidden[:, places].reshape(len(order), self.settings.num_targets, size), axis=2)
        return Masks(np.sort(order[:, :visible], axis=1), targets)

    def _patches(self, share: float) -> int:
        # Rounded down, so that shares which add up to 1 fit; 0.7 of 6 x 5 patches are 21, whatever floats say.
        return max(1, int(share * self.grid[0] * self.grid[1] + 1e-9))

    def _check_fits(self) -> None:
        settings, patches, where = (
            self.settings,
            self.grid[0] * self.grid[1],
            f"on a {self.grid[0]}x{self.grid[1]} grid",
        )
        fewest, most = map(self._patches, settings.context_scale)
        largest = self._patches(settings.target_scale[1])
        if most + largest > patches:
            raise UserError(
                f"masking.context_scale = {settings.context_scale} and masking.target_scale = {settings.target_scale}: "
                f"{most} visible and {largest} target patches do not fit together {where}; "
                f"use scales that add up to at most 1, such as 0.3,0.3 and 0.7,0.7"
            )
        if fewest < settings.min_context:
            raise UserError(
                f"masking.min_context = {settings.min_context} cannot be satisfied: masking.context_scale = "
                f"{settings.context_scale} leaves {fewest} visible patches {where}; use a larger context_scale or a "
                f"min_context of at most {fewest}"
            )
