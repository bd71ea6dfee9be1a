"""All thumbnails of a map in one picture, which a browser decodes once."""

import base64
import io
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from hjepa.deploy.contact_sheet import for_people

PIXELS = 20_000_000  # of the whole atlas: browsers of phones decode no more
SIDES = (128, 96, 64, 48, 40, 32)  # of a thumbnail; the largest with which all fit


class Atlas(NamedTuple):
    """Square thumbnails in rows of ``columns``, in the order of the images."""

    side: int
    columns: int
    data: str  # a data URL


def thumbnail_side(count: int) -> int:
    """Return the side of a thumbnail, in pixels, for so many images."""
    return next((side for side in SIDES if count * side * side <= PIXELS), SIDES[-1])


def build_atlas(images: Iterable[np.ndarray | None], count: int) -> Atlas:
    """Return the atlas of images [H, W, C], of which None is drawn grey."""
    side, columns = thumbnail_side(count), max(1, math.ceil(math.sqrt(count)))
    sheet = Image.new("RGB", (columns * side, max(1, math.ceil(count / columns)) * side), (238, 238, 238))
    for number, pixels in enumerate(images):
        if pixels is None:
            continue
        picture = ImageOps.contain(for_people(pixels), (side, side))
        left, top = number % columns * side, number // columns * side
        sheet.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=80)
    return Atlas(side, columns, f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}")
