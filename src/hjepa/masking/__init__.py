"""Which patches are seen and which are predicted: masks as pure functions of ``(seed, step)``.

``MultiBlockSampler`` is the one to use; ``ReferenceSampler`` repeats the published sampler, faults
included; ``coverage`` measures what either does to a grid.
"""

from hjepa.masking.coverage import Coverage, coverage, draw, svg
from hjepa.masking.multiblock import Masks, MaskSettings, MultiBlockSampler
from hjepa.masking.reference import ReferenceSampler

__all__ = [
    "Coverage",
    "MaskSettings",
    "Masks",
    "MultiBlockSampler",
    "ReferenceSampler",
    "coverage",
    "draw",
    "svg",
]
