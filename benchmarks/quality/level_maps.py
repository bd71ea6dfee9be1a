"""Pictures of what the levels of a run know: PCA maps, a row for each image.

    python benchmarks/quality/level_maps.py runs/demo --data scenes:test --out docs/images/levels.png

Columns: the image, every level finest first, the last block. The cells of 256 images less the mean of their place
(most of a young encoder's features is position, the same in every image) are projected on their first three principal
components, shown as red, green and blue, from the 2nd to the 98th per cent.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import hjepa
from hjepa.data.sources import open_source

FITTED = 256  # images that means and components are taken from
SIZE, GAP = 112, 6  # of a picture, in pixels


def colours(cells: Tensor) -> tuple[Tensor, float]:
    """Map cells [B, GH, GW, D] to colours [B, GH, GW, 3] in 0..1; also the share of variance the three explain."""
    cells = cells.double() - cells.double().mean(0)
    flat = cells.flatten(0, 2)
    values, vectors = torch.linalg.eigh(flat.T @ flat)
    shown = flat @ vectors[:, -3:].flip(1)
    low, high = (torch.quantile(shown[: 2**18], q, dim=0) for q in (0.02, 0.98))
    share = float(values[-3:].sum() / values.sum())
    return ((shown - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).unflatten(0, cells.shape[:3]), share


def picture(values: np.ndarray) -> Image.Image:
    """Return [H, W, 3] (or 1) in 0..255 as a picture whose cells keep their edges."""
    values = values.repeat(3, -1) if values.shape[-1] == 1 else values
    return Image.fromarray(values.astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default="scenes:test")
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    encoder = hjepa.load_encoder(asked.run)
    source = open_source(asked.data)
    images = source.batch(range(min(FITTED, len(source))))
    columns = [images[: asked.images]]
    x = torch.from_numpy(images).movedim(-1, 1)
    levels = [*encoder.levels(x), encoder(x).tokens.unflatten(1, encoder.grid(x))]
    for number, cells in enumerate(levels):
        found, share = colours(cells)
        name = "last block" if number == len(levels) - 1 else f"level {number}"
        print(f"{name}: {tuple(cells.shape[1:3])} cells, three components hold {share:.0%} of what differs at a place")
        columns.append((255 * found[: asked.images]).round().numpy())
    sheet = Image.new("RGB", (len(columns) * (SIZE + GAP) - GAP, asked.images * (SIZE + GAP) - GAP), "white")
    for across, column in enumerate(columns):
        for down, values in enumerate(column):
            sheet.paste(picture(values), (across * (SIZE + GAP), down * (SIZE + GAP)))
    sheet.save(asked.out)


if __name__ == "__main__":
    main()
