"""A page with pictures side by side: one file that needs no other."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from hjepa.data.decode import read_image
from hjepa.data.sources import FileSource, ImageSource
from hjepa.deploy.reading import file_named
from hjepa.errors import UserError
from hjepa.files import write_text

THUMBNAIL = 160  # pixels of the longer side

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff; }
h1 { font-size: 20px; } h2 { font-size: 15px; margin: 1.6em 0 .4em; font-weight: 600; overflow-wrap: anywhere; }
section { display: flex; flex-wrap: wrap; gap: 12px; }
figure { margin: 0; width: 168px; } figure.first { padding-right: 12px; border-right: 2px solid #bbb; }
img, .none { width: 160px; height: 160px; object-fit: contain; background: #eee; image-rendering: auto; }
.none { display: flex; align-items: center; justify-content: center; color: #777; }
figcaption { font-size: 12px; overflow-wrap: anywhere; } b { font-weight: 600; }
"""


class Picture(NamedTuple):
    """One picture of a sheet; without pixels a grey box stands for it."""

    pixels: np.ndarray | None  # [H, W, C]
    title: str
    text: str


class Section(NamedTuple):
    """A row of pictures, of which the first is what the others are compared with."""

    heading: str
    pictures: Sequence[Picture]


def write_contact_sheet(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page."""
    body = "\n".join(
        f"<h2>{escape(each.heading)}</h2>\n<section>{_figures(each.pictures)}</section>" for each in sections
    )
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


class Pictures:
    """The pictures of a collection, for people: by their paths, or from the source they were read from."""

    def __init__(self, source: ImageSource | None, folder: str) -> None:
        self.source, self.folder = source, folder

    def pixels(self, index: int, path: str) -> np.ndarray | None:
        """Return [H, W, C] of an image, or None if it cannot be found or read."""
        try:
            if self.source is not None:
                return self.source[index]
            file = file_named(path, self.folder)
            return None if file is None else read_image(file)
        except (UserError, OSError):
            return None

    def size(self, index: int, path: str) -> tuple[int, int]:
        """Return pixels and bytes of an image, as far as they are known: what says which of two copies is better."""
        pixels = self.pixels(index, path)
        of_file = self.source.paths[index] if isinstance(self.source, FileSource) else file_named(path, self.folder)
        size = of_file.stat().st_size if isinstance(of_file, Path) and of_file.is_file() else 0
        return (0 if pixels is None else pixels.shape[0] * pixels.shape[1]), size


def for_people(pixels: np.ndarray) -> Image.Image:
    """Return an image [H, W, C] of any depth and number of bands in 8 bits: grey, or its first three bands."""
    if pixels.dtype != np.uint8:
        low, high = float(np.nanmin(pixels)), float(np.nanmax(pixels))
        pixels = (np.nan_to_num(pixels.astype(np.float32) - low) * (255.0 / max(high - low, 1e-9))).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] < 3 else pixels[..., :3]))


def thumbnail(pixels: np.ndarray) -> bytes:
    """Return a JPEG of an image [H, W, C] of any depth and number of bands."""
    image = for_people(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def _figures(pictures: Sequence[Picture]) -> str:
    return "".join(_figure(each, first=number == 0) for number, each in enumerate(pictures))


def _figure(picture: Picture, *, first: bool) -> str:
    image = '<div class="none">not found</div>'
    if picture.pixels is not None:
        data = base64.b64encode(thumbnail(picture.pixels)).decode()
        image = f'<img alt="{escape(picture.title)}" src="data:image/jpeg;base64,{data}">'
    kind = ' class="first"' if first else ""
    text = f"<figcaption><b>{escape(picture.title)}</b><br>{escape(picture.text)}</figcaption>"
    return f"<figure{kind}>{image}{text}</figure>"
