"""Peak memory of embedding 100,000 images with the width of a ViT-S: one block, since more cost time, and weights."""

import argparse
import resource
import tempfile
from pathlib import Path

import numpy as np
import psutil
from embed_speed import write_model

from hjepa.commands.embed import EmbedOptions, write_embeddings


class ManyImages:
    """Pictures that are made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.name, self.channels, self.count, self.labels = "many", 3, count, {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        return np.full((32, 32, 3), index % 256, dtype=np.uint8)

    def fingerprint(self) -> str:
        return f"{self.count}-many"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--ending", default="parquet")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model = write_model(Path(name) / "model", "vit_small_patch16_224", img_size=32, patch_size=16, depth=1)
        before = psutil.Process().memory_info().rss / 2**30
        out = Path(name) / f"v.{options.ending}"
        written = write_embeddings(
            model, ManyImages(options.images), out, EmbedOptions(batch_size=256, precision="float32")
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        size = out.stat().st_size / 2**20
        print(
            f"{options.images:,} images, .{options.ending} of {size:.0f} MB: peak memory {peak:.2f} GB, "
            f"of which {before:.2f} GB before the first image; {written.progress.images_per_second:,.0f} images/s"
        )
