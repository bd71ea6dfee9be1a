"""Largest difference of features after an export was read back, per format: encoders of three sizes on real images.

    OMP_NUM_THREADS=1 python benchmarks/export_fidelity.py [--work FOLDER] [--only NAME]

Each run takes a few steps, because rounding does not depend on how long an encoder was trained. The photographs are the
two that come with scikit-learn.
"""

import argparse
import tempfile
from pathlib import Path

import sklearn.datasets

import hjepa

FORMATS = ["timm", "transformers", "onnx", "torch", "safetensors"]
PHOTOS = Path(sklearn.datasets.__file__).parent / "images"
VIT_S = {"width": 384, "depth": 12, "heads": 6, "patch_size": 16}
CASES = {
    "tiny, CIFAR-10": ("cifar10", "hjepa-tiny", {"train": {"length": 40}}),
    "tiny, Fashion-MNIST": ("fashion-mnist", "hjepa-tiny", {"train": {"length": 40}}),
    "ViT-S/16, photographs": (
        PHOTOS, "ijepa-code",
        {"data": {"image_size": [224, 224]}, "model": VIT_S, "optim": {"batch_size": 2}, "train": {"length": 2}},
    ),
}  # fmt: skip


def measure(name: str, work: Path) -> list[str]:
    """Train an encoder, export it to every format, and return the rows of the table."""
    data, recipe, settings = CASES[name]
    folder = work / name.replace(" ", "-").replace("/", "").replace(",", "")
    run = hjepa.pretrain(data, out=folder / "run", recipe=recipe, **settings)
    done = hjepa.export(run, to=FORMATS, out=folder / "exports", progress=print)
    rows = []
    for one in done.exports:
        compared, pixels = one.comparison, one.comparison.pixels
        own = f"{pixels.largest:.4f} ({pixels.mean:.5f}), {pixels.pooled:.1e}" if pixels else "-"
        sizes = ", ".join(f"{height}x{width}" for height, width in compared.sizes)
        rows.append(f"| {name} | {compared.reader} | {sizes} | {compared.tokens:.1e} | {compared.pooled:.1e} | {own} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where runs and exports are kept; a temporary folder by default")
    parser.add_argument("--only", choices=CASES, help="one of the encoders")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows = [
            row for name in CASES if given.only in (None, name) for row in measure(name, given.work or Path(temporary))
        ]
    print("| encoder | read back with | sizes | tokens | pooled | own preprocessing: pixels (mean), pooled |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
