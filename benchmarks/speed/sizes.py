"""What is measured: sizes of images and networks, and the settings of the product that are the same work."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hjepa.config import Layer, Resolved, read_recipe, resolve
from hjepa.setup.autoconfig import resolve_auto


@dataclass(frozen=True)
class Size:
    """A network, its images and its batch; ``encoder`` and ``predictor`` are (width, depth, heads)."""

    name: str
    image: int  # pixels
    patch: int
    encoder: tuple[int, int, int]
    predictor: tuple[int, int, int]
    batch: int
    levels: tuple[tuple[int, int], ...] | None = None

    @property
    def title(self) -> str:
        """Return what stands above its table."""
        return f"{self.image} px, {self.name}, batch {self.batch}"

    def settings(self, precision: str, device: str, total: int) -> dict[str, Any]:
        """Return sections of settings: the released algorithm at this size."""
        (width, depth, heads), (narrow, shallow, predictor_heads) = self.encoder, self.predictor
        return {
            "data": {"image_size": [self.image, self.image], "channels": 3, "workers": 0},
            "model": {
                "patch_size": self.patch, "width": width, "depth": depth, "heads": heads, "predictor_width": narrow,
                "predictor_depth": shallow, "predictor_heads": predictor_heads,
                "levels": None if self.levels is None else [list(level) for level in self.levels],
            },
            "masking": self._masking(),
            "optim": {"batch_size": self.batch},
            "train": {"length": total, "precision": precision, "device": device, "checkpoint_every": 1_000_000},
        }  # fmt: skip

    def _masking(self) -> dict[str, Any]:
        """Blocks of an 8 x 8 grid have 9 patches, and the released minimum, ten visible ones, is for 14 x 14."""
        side = self.image // self.patch
        return {"min_keep": 10 if side > 8 else 4} if side > 4 else {"min_keep": 1, "target_scale": [0.25, 0.3]}

    def images(self) -> np.ndarray:
        """Return images in memory: noise, since speed does not depend on what they show."""
        count = max(self.batch, 4096 if self.image < 100 else 512)
        return np.random.default_rng(0).integers(0, 256, (count, self.image, self.image, 3), dtype=np.uint8)


TINY, SMALL, BASE, LARGE = (192, 12, 3), (384, 12, 6), (768, 12, 12), (1024, 24, 16)
SIZES = {
    "ti4-128": Size("ViT-Ti/4", 32, 4, TINY, (96, 4, 3), 128),
    "ti4-512": Size("ViT-Ti/4", 32, 4, TINY, (96, 4, 3), 512),
    "s16": Size("ViT-S/16", 224, 16, SMALL, (384, 6, 6), 256),
    "b16": Size("ViT-B/16", 224, 16, BASE, (384, 6, 12), 128),
    "s16-32": Size("ViT-S/16", 224, 16, SMALL, (384, 6, 6), 32),
    "b16-8": Size("ViT-B/16", 224, 16, BASE, (384, 6, 12), 8),
}
DEFAULT = {"cuda": ("ti4-128", "ti4-512", "s16", "b16"), "cpu": ("ti4-128", "s16-32")}


def sized(name: str, batch: int) -> Size:
    """Return a size by name, with another batch unless that is 0."""
    return replace(SIZES[name], batch=batch) if batch else SIZES[name]


def resolved_size(size: Size, source: Any, precision: str, device: str, total: int, **train: Any) -> Resolved:
    """Return the settings of a size, with those of the machine filled in; ``train`` are more settings of that section.

    They are laid over the released algorithm.
    """
    sections = size.settings(precision, device, total)
    layer = Layer("benchmark", sections | {"train": sections["train"] | train})
    return resolve_auto(resolve([read_recipe("ijepa-code"), layer]), source)
