"""Choose the size of the encoder's input and of its patches from the images; without torch, for ``hjepa check``."""

import math
from typing import Any

from hjepa.config import Resolved, derive
from hjepa.data.bad_images import BadImages
from hjepa.data.sources import FileSource, ImageSource
from hjepa.data.survey import sample_of
from hjepa.errors import UserError


def with_sizes(resolved: Resolved, source: ImageSource, bad: BadImages) -> Resolved:
    """Resolve auto image and patch sizes: 28, 32, 64 or 96 pixels, the first that covers the images; 7 or 8 patches."""
    data = resolved.config.data
    values: dict[str, tuple[Any, str]] = {}
    size = data.image_size
    if size is None:
        sides = _short_sides(source, bad)
        side = sides[len(sides) // 2]
        patch = resolved.config.model.patch_size or 1
        chosen = next((s for s in (28, 32, 64) if side <= s), 96) // patch * patch
        if chosen < 2 * patch:
            raise UserError(
                f"model.patch_size = {patch} leaves fewer than 2x2 patches in images of {side} pixels: "
                "use a smaller --model.patch_size"
            )
        size = (chosen, chosen)
        values["data.image_size"] = (size, _reason_for_size(sides))
    if resolved.config.model.patch_size is None:
        patch = _patch_for(size)
        values["model.patch_size"] = (patch, f"{min(size) // patch} patches across {min(size)} pixels")
    return derive(resolved, values)


def _short_sides(source: ImageSource, bad: BadImages) -> list[int]:
    """Return the shorter sides of the images, or of a random sample, in ascending order."""
    if isinstance(source, FileSource) and (sides := source.survey.short_sides()):
        return sorted(sides)
    from hjepa.data.loader import read  # imports torch

    # An array has one size, so one image tells it.
    sampled = [0] if hasattr(source, "batch") else sample_of(len(source), 64, "sizes")
    return sorted(min(read(source, index, bad).shape[:2]) for index in sampled)


def _reason_for_size(sides: list[int]) -> str:
    side = sides[len(sides) // 2]
    if sides[0] == sides[-1]:
        return f"the images are {side} pixels on their shorter side"
    return f"the median shorter side of {len(sides):,} images is {side} pixels ({sides[0]} to {sides[-1]})"


def _patch_for(size: tuple[int, int]) -> int:
    """Return the patch size that divides both sides and comes closest to 8 patches along the shorter one."""
    common = math.gcd(*size)
    patch = min((p for p in range(1, common + 1) if common % p == 0), key=lambda p: abs(p - min(size) / 8))
    if not 2 <= min(size) // patch <= 32:
        raise UserError(
            f"data.image_size = {size[0]},{size[1]} cannot be divided into about 8 equal patches per side: "
            "use multiples of 8, or set --model.patch_size"
        )
    return patch
