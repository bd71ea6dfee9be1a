"""Mask samplers: which patches are visible and which are predicted, as pure functions of ``(seed, step)``.

``MultiBlockSampler`` samples blocks, ``RandomPatchSampler`` single patches; ``ReferenceSampler`` reproduces the
original I-JEPA sampler, including its bugs; ``coverage`` measures how a sampler covers a grid.
"""

from hjepa.masking.coverage import Coverage, coverage, draw, svg
from hjepa.masking.multiblock import Masks, MaskSampler, MaskSettings, MultiBlockSampler
from hjepa.masking.random_patches import RandomPatchSampler
from hjepa.masking.reference import ReferenceSampler

__all__ = [
    "Coverage",
    "MaskSampler",
    "MaskSettings",
    "Masks",
    "MultiBlockSampler",
    "RandomPatchSampler",
    "ReferenceSampler",
    "coverage",
    "draw",
    "svg",
]
