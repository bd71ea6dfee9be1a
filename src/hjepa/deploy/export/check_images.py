"""Real images to compare an export on: given ones, the run's own, or else synthetic scenes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from hjepa.data.augment import ResizeToInput
from hjepa.data.bad_images import BadImages
from hjepa.data.decode import opened
from hjepa.data.loader import read
from hjepa.data.scenes import Scenes
from hjepa.data.sources import FileSource, ImageSource, cifar10_is_here, fashion_mnist_is_here, open_source
from hjepa.errors import UserError
from hjepa.files import shown
from hjepa.models.frozen import FrozenEncoder

COUNT = 8


@dataclass(frozen=True)
class CheckImages:
    """A few images, evenly spread over a source; ``origin`` says in words which these are."""

    raw: list[np.ndarray]  # [H', W', C'] each, as the source has them
    files: list[Path | None]  # where each of them lies, if it is a file
    kind: str  # given, run or synthetic
    origin: str
    why_synthetic: str = ""  # why no real images were found

    def batch(self, encoder: FrozenEncoder, size: tuple[int, int] | None = None) -> Tensor:
        """Return them as our own preprocessing does: floats in 0..1 [B, C, H, W], in the encoder's size or another."""
        preprocess = encoder.card["preprocess"]
        resize = ResizeToInput(
            size or tuple(preprocess["image_size"]), len(encoder.mean), preprocess["fit"], encoder.value_range
        )
        batch = torch.stack([resize(image) for image in self.raw])
        return batch / 255.0 if batch.dtype == torch.uint8 else batch

    def as_opened(self, number: int, channels: int) -> Image.Image:
        """Return an image as the model card says to open it: a PIL image, upright, of 1, 3 or 4 channels."""
        file, pixels = self.files[number], self.raw[number]
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
        if file is not None and pixels.shape[-1] <= 3:  # a file of more bands may be one that Pillow cannot open
            with opened(file) as image:
                return ImageOps.exif_transpose(image).convert(mode)
        return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert(mode)


def choose_images(encoder: FrozenEncoder, record: Mapping[str, Any], given: Any = None) -> CheckImages:
    """Return the given images, or else some of those the run was trained on, or else synthetic scenes.

    ``record`` is run.json, empty if there is none. Nothing is downloaded. Raises UserError if the given images cannot
    be read or have other channels than the encoder takes.
    """
    channels = len(encoder.mean)
    if given is not None:
        source = open_source(given, channels, encoder.pages)
        return _some(source, encoder, "given", f"images of {source.name} (--images)")
    source_name = str(record.get("data", {}).get("source", ""))
    named = record.get("repeat") is not None  # or else it was an array or a Dataset, which only had a name
    if named and (own := _own_images(source_name, encoder)) is not None:
        same = own.fingerprint() == record["data"].get("fingerprint")
        changed = "" if same else ", which has changed since the run"
        try:
            return _some(own, encoder, "run", f"of the run's own images ({source_name}{changed})")
        except UserError:
            pass  # they were replaced by images that do not suit this encoder, or cannot be read any more
    why = f"the run's own images ({source_name}) cannot be opened here" if source_name else "no run says which images"
    scenes = _some(Scenes("test", length=5_000), encoder, "synthetic", "synthetic scenes")
    return replace(scenes, why_synthetic=why)


def _own_images(name: str, encoder: FrozenEncoder) -> ImageSource | None:
    """Open the source that run.json names if it lies on this machine; None otherwise."""
    known = {"scenes": True, "fashion-mnist": fashion_mnist_is_here(), "cifar10": cifar10_is_here()}
    head = name.partition(":")[0]
    here = known.get(head, False) or (
        name != "" and any(Path(p).exists() for p in (name, name.rpartition(":")[0]) if p)
    )
    if not here:
        return None
    try:
        return open_source(name, len(encoder.mean), encoder.pages)
    except UserError:
        return None


def _some(source: ImageSource, encoder: FrozenEncoder, kind: str, what: str) -> CheckImages:
    """Read images spread evenly over a source; raises UserError if they do not suit the encoder."""
    count, channels = min(COUNT, len(source)), len(encoder.mean)
    if count == 0:
        raise UserError(f"{source.name} contains no images: pass others with --images DATA")
    places = [number * len(source) // count for number in range(count)]
    bad = BadImages(len(source), max_bad=1.0)  # others stand in for unreadable ones, however many there are
    raw = [_in_channels(read(source, place, bad), channels, source.name, kind) for place in places]
    if encoder.value_range is None and any(image.dtype != np.uint8 for image in raw):
        raise UserError(f"--images {source.name}: images have more than 8 bits, but this encoder was trained on 8 bits")
    readable = isinstance(source, FileSource) and {*places} - {image.number for image in bad}
    paths = [source.paths[p] if isinstance(source, FileSource) and readable and p in readable else None for p in places]
    files = [path if isinstance(path, Path) else None for path in paths]  # what lies in an archive is no file
    return CheckImages(raw, files, kind, f"{count} {what}")


def _in_channels(image: np.ndarray, channels: int, name: str, kind: str) -> np.ndarray:
    """Return an image that can be brought to the encoder's channels; scenes are colour, so theirs are repeated."""
    have = image.shape[-1]
    if have in (1, channels) or (have == 3 and channels == 1):
        return image
    if kind == "synthetic":
        return image[..., [number % have for number in range(channels)]]
    raise UserError(f"--images {shown(name)}: images have {have} channels, but this encoder takes {channels}")
