"""Recall and precision of ``hjepa duplicates``: 2,000 test images of CIFAR-10 and 900 copies of some of them.

``--part train`` takes training images instead, ``--pictures FOLDER`` the image files of a folder at their own size:
the threshold for pixels was chosen on the test images, so those two are the pictures kept back.

The copies are made here, not by the code that calibrates the threshold: re-encoded (JPEG, quality 60 to 95), resized
(to 0.6 to 1.5 times the size, then JPEG of quality 90), cropped (5 % of both sides cut off, at a random place, as PNG).
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import hjepa
from hjepa.files import write_json
from hjepa.models.frozen import encoder_bytes, load_frozen, random_init_copy

KINDS = ("re-encoded", "resized", "cropped")


def write_copy(pixels: np.ndarray, kind: str, random: np.random.Generator, file: Path) -> None:
    image = Image.fromarray(pixels)
    height, width = pixels.shape[:2]
    if kind == "re-encoded":
        image.save(file.with_suffix(".jpg"), quality=int(random.integers(60, 96)))
    elif kind == "resized":
        scale = random.uniform(0.6, 1.5)
        resized = image.resize((round(scale * width), round(scale * height)), Image.Resampling.LANCZOS)
        resized.save(file.with_suffix(".jpg"), quality=90)
    else:
        kept = round(0.95 * height), round(0.95 * width)
        top, left = (int(random.integers(side - part + 1)) for side, part in zip((height, width), kept, strict=True))
        image.crop((left, top, left + kept[1], top + kept[0])).save(file.with_suffix(".png"))


def pictures_of_folder(folder: Path, most: int) -> list[np.ndarray]:
    """Return the images of a folder on white, of different content each, in the order of their paths."""
    found, seen = [], set()
    for file in sorted(folder.rglob("*.png")) + sorted(folder.rglob("*.jpg")):
        image = Image.open(file).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        pixels = np.asarray(Image.alpha_composite(white, image).convert("RGB"))
        if (content := pixels.tobytes()) not in seen:
            seen.add(content)
            found.append(pixels)
    return found[:most]


def write_collection(folder: Path, pictures: Sequence[np.ndarray], copied: int) -> None:
    """Write images as NUMBER.png and their copies as NUMBER-KIND.*."""
    random = np.random.default_rng(1)
    for number, each in enumerate(pictures):
        Image.fromarray(each).save(folder / f"{number:05}.png")
    for kind in KINDS:
        for number in random.choice(len(pictures), copied, replace=False):
            write_copy(pictures[number], kind, random, folder / f"{number:05}-{kind}")


def write_random_init(run: Path, folder: Path) -> Path:
    """Write the encoder of a run with the weights it might have started from."""
    control = random_init_copy(load_frozen(run), seed=0)
    folder.mkdir()
    (folder / "encoder.safetensors").write_bytes(encoder_bytes(control.encoder))
    write_json(folder / "encoder.json", control.card)
    return folder


def original_of(path: str) -> int:
    return int(Path(path).name[:5])


def measure(run: Path, images: Path, sheet: Path | None) -> list[str]:
    started = time.process_time()
    found = hjepa.duplicates(run, images)
    seconds = time.process_time() - started
    pairs = [(found.paths[group.keep], found.paths[copy.index]) for group in found.groups for copy in group.copies]
    wrong = [(a, b) for a, b in pairs if original_of(a) != original_of(b)]
    together = {path: number for number, pair in enumerate(pairs) for path in pair}
    groups = {path: index for index, group in enumerate(found.groups)
              for path in (found.paths[group.keep], *(found.paths[copy.index] for copy in group.copies))}  # fmt: skip
    assert together.keys() == groups.keys()
    cells = []
    for kind in KINDS:
        copies = [path for path in found.paths if f"-{kind}" in path]
        originals = [str(Path(path).with_name(f"{original_of(path):05}.png")) for path in copies]
        hits = [path in groups and groups[path] == groups.get(o) for path, o in zip(copies, originals, strict=True)]
        cells.append(f"{sum(hits)} of {len(hits)} ({np.mean(hits):.1%})")
    if sheet is not None:
        found.write_html(sheet)
    for pair in wrong:
        print("not made here:", *(Path(path).name for path in pair))
    precision = 1 - len(wrong) / max(len(pairs), 1)
    known = found.calibration
    calibrated = " / ".join(f"{part:.1%}" for part in known.found.values())
    correct = f"{len(pairs) - len(wrong)} of {len(pairs)} ({precision:.2%})"
    return [*cells, correct, f"{found.threshold:.4f}", calibrated, f"{known.false_pairs}", f"{seconds:.0f} s"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True, help="a run pretrained on CIFAR-10")
    parser.add_argument("--data", type=Path, default=Path("data/cifar10.npz"))
    parser.add_argument("--part", choices=("test", "train"), default="test", help="which images of CIFAR-10")
    parser.add_argument("--pictures", type=Path, help="folder of .png and .jpg files, instead of CIFAR-10")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--copied", type=int, default=300, help="images copied in each way")
    parser.add_argument("--html", type=Path, help="page with the groups found by the trained encoder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "images").mkdir()
        if options.pictures is None:
            pictures = np.load(options.data)[f"{options.part}_images"][: options.images]
        else:
            pictures = pictures_of_folder(options.pictures, options.images)
        print(f"{len(pictures)} pictures, {options.copied} copies of each kind\n")
        write_collection(Path(name) / "images", pictures, options.copied)
        print(
            "| encoder | re-encoded | resized | cropped | correct pairs | threshold | its own calibration "
            "| false pairs | processor time |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        random_init = write_random_init(options.run, Path(name) / "random")
        for title, run, sheet in (("pretrained", options.run, options.html), ("random init", random_init, None)):
            print(f"| {title} | {' | '.join(measure(run, Path(name) / 'images', sheet))} |", flush=True)
