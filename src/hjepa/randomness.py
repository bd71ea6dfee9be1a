"""All random numbers of hjepa are pure functions of ``(seed, what, counters)``.

There is no state: no generator is carried from step to step, so neither resuming nor the number of
workers or ranks can change a random number.
"""

import zlib

import numpy as np


def generator(seed: int, what: str, *counters: int) -> np.random.Generator:
    """Return a fresh generator for one purpose at one point of the run.

    ``what`` names the purpose ("order", "masks", "crop" ...); ``counters`` say when (step, epoch,
    sample). Streams of different arguments are independent (NumPy ``SeedSequence`` into Philox,
    Salmon et al., 2011). A batch drawn as ``random((B, n))`` is filled row by row, so row ``i``
    does not depend on ``B``.
    """
    # The number of counters is part of the entropy: SeedSequence pads with zeros, so (3,) would equal (3, 0).
    entropy = [seed, zlib.crc32(what.encode()), len(counters), *counters]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
