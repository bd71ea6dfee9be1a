"""Which patches are seen and which are predicted: masks as pure functions of ``(seed, step)``.

``MultiBlockSampler`` draws blocks, ``RandomPatchSampler`` single patches; ``ReferenceSampler`` repeats the published
sampler of blocks, faults included; ``coverage`` measures what one of them does to a grid.
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
