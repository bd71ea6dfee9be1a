"""Images that Pillow cannot write."""

import numpy as np


def deep_png_bytes(seed: int, size: int = 24) -> bytes:
    """Return a PNG of 16 bits per colour."""
    import imagecodecs

    values = np.random.default_rng(seed).integers(0, 65536, (size, size, 3), dtype=np.uint16)
    return imagecodecs.png_encode(values)
