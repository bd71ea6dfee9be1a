"""Which patches are seen and which are predicted: masks as pure functions of ``(seed, step)``.

``MultiBlockSampler`` draws blocks, ``RandomSampler`` single patches; ``ReferenceSampler`` repeats the published
sampler of blocks, faults included; ``coverage`` measures what one of them does to a grid.
"""

from hjepa.masking.coverage import Coverage, coverage, draw, svg
from hjepa.masking.multiblock import Masks, MaskSampler, MaskSettings, MultiBlockSampler
from hjepa.masking.reference import ReferenceSampler
from hjepa.masking.scattered import RandomSampler

__all__ = [
    "Coverage",
    "MaskSampler",
    "MaskSettings",
    "Masks",
    "MultiBlockSampler",
    "RandomSampler",
    "ReferenceSampler",
    "coverage",
    "draw",
    "svg",
]
