"""Throughput of embedding against a plain timm loop over the same files, reading included, in the same precision.

Both run in this process, one after the other, several times; the ratio of each pair is reported. The plain loop opens
files with Pillow, applies timm's own transform and runs the network on the same batch size.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf

from hjepa.commands.embed import EmbedOptions, write_embeddings


def write_images(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Write JPEG files of smooth random pictures, about as large as photographs of that size."""
    random, paths = np.random.default_rng(0), []
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (48, 64, 3), dtype=np.uint8))
        paths.append(folder / f"{number:05}.jpg")
        coarse.resize(size, Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def write_model(folder: Path, name: str, **arguments: int) -> Path:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **arguments)
    size = arguments.get("img_size", 224)
    save_for_hf(
        model, str(folder), model_args=arguments, data_config={"input_size": (3, size, size)}, safe_serialization=True
    )
    return folder


def plain_loop(folder: Path, paths: list[Path], batch_size: int) -> np.ndarray:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    vectors = []
    started = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(paths), batch_size):
            batch = [transform(Image.open(path).convert("RGB")) for path in paths[start : start + batch_size]]
            vectors.append(model(torch.stack(batch)).numpy())
    return np.concatenate(vectors), len(paths) / (time.perf_counter() - started)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        paths = write_images(folder / "photos", options.images, (500, 375))
        model = write_model(folder / "model", options.model)
        ratios = []
        for repeat in range(options.repeats):
            plain, plain_rate = plain_loop(model, paths, options.batch_size)
            embed = EmbedOptions(precision="float32", batch_size=options.batch_size)
            written = write_embeddings(model, folder / "photos", folder / f"{repeat}.npy", embed)
            ours = np.load(folder / f"{repeat}.npy")
            rate = written.progress.images_per_second
            ratios.append(rate / plain_rate)
            print(
                f"plain {plain_rate:.1f} images/s, hjepa embed {rate:.1f} images/s, ratio {ratios[-1]:.2f}, "
                f"largest difference {np.abs(ours - plain).max():.1e}",
                flush=True,
            )
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"median ratio {np.median(ratios):.2f}; peak memory of this process {memory:.2f} GB")
