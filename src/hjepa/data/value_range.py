"""One scale for all images of more than 8 bits, so that the same value is the same brightness in every image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hjepa.data.bad_images import BadImages
from hjepa.data.loader import read
from hjepa.data.sources import ImageSource
from hjepa.data.survey import sample_of

SAMPLE = 256  # images that are measured
_PERCENTILES = (0.1, 99.9)  # of an image: a hot pixel, or a dead one, decides nothing
_ALL_FIT = 1.05  # by how much the range may be larger if that spares the values at its ends from being clipped


def images_of_more_than_8_bits(source: ImageSource, bad: BadImages) -> list[int]:
    """Return which images have more than 8 bits, or a sample of them; empty if none has."""
    known: Sequence[int] | None = getattr(source, "deep_images", None)
    if known is not None:
        return [known[place] for place in sample_of(len(known), SAMPLE, "value range")]
    if hasattr(source, "batch"):
        return []  # drawn images are uint8
    sampled = sample_of(len(source), SAMPLE, "value range")
    return [index for index in sampled if read(source, index, bad).dtype != np.uint8]


class ValueRange(NamedTuple):
    """The values that become 0 and 1, and whether values of the measured images lie outside and are clipped."""

    low: float
    high: float
    clips: bool


def measure_value_range(source: ImageSource, images: Sequence[int], bad: BadImages) -> ValueRange:
    """Return robust extremes of these images, or their true ones if those are nearly the same.

    Those of an image are percentiles that leave out at least one pixel at each end; those of the dataset leave out one
    image in a hundred at each end.
    """
    lows, highs, least, most = [], [], [], []
    for index in images:
        values = read(source, index, bad)
        finite = values[np.isfinite(values)] if values.dtype != np.uint8 else values[:0]
        if finite.size:
            low, high = _inner(finite, *_PERCENTILES)
            # Bright points on an empty ground: the ground alone would be no scale.
            least.append(float(finite.min()))
            most.append(float(finite.max()))
            lows.append(low if high > low else least[-1])
            highs.append(high if high > low else most[-1])
    if not lows:
        return ValueRange(0.0, 1.0, clips=False)
    left_out = len(lows) // 100
    low, high = sorted(lows)[left_out], sorted(highs)[len(highs) - 1 - left_out]
    if high <= low:
        return ValueRange(_short(low), _short(low) + 1.0, clips=True)
    if all_fit := max(most) - min(least) <= _ALL_FIT * (high - low):
        low, high = min(least), max(most)
    return ValueRange(_short(low), _short(high), clips=not all_fit)


def _inner(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Return two percentiles that are values of the image, the next ones inwards."""
    return float(np.percentile(values, low, method="higher")), float(np.percentile(values, high, method="lower"))


def _short(value: float) -> float:
    """Return a value with the seven digits that float32 has, so that the configuration stays legible."""
    return float(f"{value:.7g}")
