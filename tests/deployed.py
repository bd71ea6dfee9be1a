"""A tiny encoder with three levels, and folders of real image files."""

from pathlib import Path

import numpy as np
from PIL import Image
from runs import pictures

from hjepa.files import write_json
from hjepa.models.encoder import build_encoder
from hjepa.models.frozen import encoder_bytes, encoder_card
from hjepa.models.initialisation import initialise
from hjepa.models.levels import Level

LEVELS = (Level(1, 1), Level(2, 2))


def write_encoder(folder: Path, *, seed: int = 0, size: int = 16, levels: tuple[Level, ...] = LEVELS) -> Path:
    """Write the encoder of a run that was never trained."""
    encoder = build_encoder(image_size=(size, size), patch_size=4, channels=3, width=32, depth=2, heads=2)
    initialise(encoder, seed=seed)
    preprocess = {"image_size": [size, size], "fit": "crop", "mean": [0.5] * 3, "std": [0.25] * 3}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "encoder.safetensors").write_bytes(encoder_bytes(encoder))
    write_json(folder / "encoder.json", encoder_card(encoder, preprocess, {"seed": seed, "step": 0}, levels))
    return folder


def write_images(folder: Path, count: int, *, seed: int = 0, size: int = 16) -> Path:
    """Write PNG files with structure, some of them in a subfolder."""
    images = pictures(count, size=size, seed=seed).images
    (folder / "more").mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(images):
        place = folder / "more" if number % 3 == 0 else folder
        Image.fromarray(pixels).save(place / f"{number:04}.png")
    return folder


def noise(seed: int, size: int = 20) -> np.ndarray:
    """Return an image without structure."""
    return np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
