"""What does each level of a run know? One table: k-NN and linear probes of each level, for coarse and fine factors.

    python benchmarks/quality/levels_know.py runs/a --train cifar10:train --test cifar10:test --max-train 10000 \
        --group animal=2,3,4,5,6,7 --pixel-factors --out benchmarks/results/quality/levels/photographs
    python benchmarks/quality/levels_know.py runs/seed0 runs/seed1 runs/seed2 --train scenes:train --test scenes:test

Factors are the labels of the images; with ``--group`` also whether an image's class is in that group (the example is
animals and vehicles of CIFAR-10); with ``--pixel-factors`` also two fine factors that are computed from pixels, each in
eight classes of equal size: ``fineness`` of texture, the mean absolute Laplacian of the grey image over its standard
deviation, and ``colour``, the mean of red less blue. Features are averaged over cells. Several runs are seeds of one
configuration: cells are then the mean and the 95 % interval over seeds (Student's t, three or more), otherwise the
interval over test images. Beside each trained level stands the same level of the untrained encoder.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import mean_and_interval
from torch import Tensor

from hjepa.data.augment import ResizeToInput
from hjepa.data.loader import ResizedImages
from hjepa.data.sources import open_source, renumber_classes
from hjepa.evaluation import bootstrap_interval, knn, linear, raw_pixels
from hjepa.evaluation.features import extract_beside, side_by_side
from hjepa.evaluation.levels import views_of
from hjepa.models.frozen import FrozenEncoder, load_frozen, random_init_copy
from hjepa.setup.machine import choose_device

PROBES: dict[str, Callable[..., Any]] = {"knn": knn, "linear": linear}
CLASSES = 8  # of a factor that is computed from pixels
Features = dict[str, dict[str, np.ndarray]]  # network -> level -> [n, F]


def fineness(images: Tensor) -> Tensor:
    """Return the mean absolute Laplacian of the grey images over their standard deviation, [B], of [B, C, H, W]."""
    grey = images.mean(1)
    middle = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return (around - 4 * middle).abs().mean((1, 2)) / (grey.std((1, 2)) + 1e-3)


def warmth(images: Tensor) -> Tensor:
    """Return the mean of the first channel less the last (red less blue), [B], of [B, C, H, W]."""
    return (images[:, 0] - images[:, -1]).mean((1, 2))


PIXEL_FACTORS = {"fineness": fineness, "colour": warmth}  # no label of scenes is called so


class WithFactors:
    """Labelled images with factors added."""

    def __init__(self, images: ResizedImages, added: dict[str, np.ndarray]) -> None:
        self.images, self.name, self.labels = images, images.name, {**images.labels, **added}

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Yield the images in their order."""
        yield from self.images.batches(batch_size)


def with_factors(sets: list[ResizedImages], group: str, pixel_factors: bool) -> list[WithFactors]:
    """Add factors to training and test images; the classes of a measured factor are those of the training images."""
    added: list[dict[str, np.ndarray]] = [{} for _ in sets]
    if group:
        name, _, classes = group.partition("=")
        for images, more in zip(sets, added, strict=True):
            more[name] = np.isin(images.labels["label"], [int(one) for one in classes.split(",")]).astype(np.int64)
    for name, measure in PIXEL_FACTORS.items() if pixel_factors else ():
        values = [torch.cat([measure(_floats(b)) for b in images.batches(256)]).numpy() for images in sets]
        edges = np.quantile(values[0], np.linspace(0, 1, CLASSES + 1)[1:-1])
        for found, more in zip(values, added, strict=True):
            more[name] = np.digitize(found, edges).astype(np.int64)
    return [WithFactors(images, more) for images, more in zip(sets, added, strict=True)]


def _floats(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def features_of(encoder: FrozenEncoder, images: WithFactors) -> Features:
    """Return the features of each level, of the last block and of all of them, of the encoder and of its control."""
    control = random_init_copy(encoder, seed=encoder.card["provenance"]["seed"]).to(encoder.mean.device)
    names = [*map(str, range(len(encoder.card_levels))), "last"]
    views = {
        f"{network} {name}": views_of(each, name)
        for network, each in (("trained", encoder), ("untrained", control))
        for name in names
    }
    found = extract_beside(views, images, ["avg"], 64, device=encoder.mean.device).features
    result: Features = {}
    for network in ("trained", "untrained"):
        by_level = {name: found[f"{network} {name}"]["avg"] for name in names}
        # As --level all: the last block counts once, also if a level is taken from it.
        once = names[:-1] if encoder.depth in {level.depth for level in encoder.card_levels} else names
        together = side_by_side([torch.from_numpy(by_level[name]) for name in once])
        result[network] = {**by_level, "all": together.numpy()}
    return result


def encoder_of(folder: Path, depths: str) -> FrozenEncoder:
    """Return the encoder of a run; with ``depths`` its levels are the tokens after so many blocks."""
    encoder = load_frozen(folder).to(choose_device("auto"))
    if depths:
        encoder.card["levels"] = [[int(depth), 1] for depth in depths.split(",")]
    return encoder


def probe_run(folder: Path, depths: str, sets: list[WithFactors], protocols: list[str]) -> list[dict[str, Any]]:
    """Return one row for each factor, protocol, network and level of a run."""
    encoder = encoder_of(folder, depths)
    train, test = (features_of(encoder, images) for images in sets)
    rows = []
    for factor, labels in sets[0].labels.items():
        for protocol in protocols:
            for network, by_level in train.items():
                for level, x in by_level.items():
                    found = PROBES[protocol](
                        x, labels, test[network][level], sets[1].labels[factor], device=encoder.mean.device
                    )
                    rows.append(
                        {
                            "factor": factor,
                            "protocol": protocol,
                            "network": network,
                            "level": level,
                            "accuracy": found.accuracy,
                            "interval": bootstrap_interval(found.correct),
                        }
                    )
        print(f"{folder}: {factor} done", flush=True)
    return rows


def controls(sets: list[WithFactors]) -> dict[str, dict[str, float]]:
    """Return k-NN on raw pixels and the largest class, for each factor."""
    pixels = [raw_pixels(images, keep_channels=True) for images in sets]
    return {
        factor: {
            "raw pixels": knn(pixels[0], labels, pixels[1], sets[1].labels[factor]).accuracy,
            "largest class": float(np.bincount(sets[1].labels[factor]).max() / len(sets[1])),
        }
        for factor, labels in sets[0].labels.items()
    }


def page(found: dict[str, Any]) -> str:
    """Return the table in words: a row for each factor and protocol, a column for each level."""
    runs, levels = found["runs"], found["levels"]
    lines = ["# What each level knows", "", f"`{found['command']}`", ""]
    over = "seeds (Student's t)" if len(runs) > 2 else "test images"
    lines += [
        f"{found['train']} ({found['n_train']:,} images) to fit, {found['test']} ({found['n_test']:,}) to test; "
        f"{len(runs)} run{'s' if len(runs) > 1 else ''} of {found['steps']} steps. Per cent, intervals over {over}; "
        "the untrained encoder in parentheses. Encoders in float32; raw pixels by k-NN.",
        "",
        f"| factor | probe | {' | '.join(levels.values())} | raw pixels | largest class |",
        "|---|---|" + "---|" * (len(levels) + 2),
    ]
    for factor, control in found["controls"].items():
        for protocol in found["protocols"]:
            cells = [_cell(runs, factor, protocol, level) for level in levels]
            raw = f"{100 * control['raw pixels']:.1f}" if protocol == "knn" else ""
            lines.append(
                f"| {factor} | {protocol} | {' | '.join(cells)} | {raw} | {100 * control['largest class']:.1f} |"
            )
    return "\n".join([*lines, ""])


def _cell(runs: list[dict[str, Any]], factor: str, protocol: str, level: str) -> str:
    def rows(network: str) -> list[dict[str, Any]]:
        asked = (factor, protocol, network, level)
        return [
            row
            for run in runs
            for row in run["rows"]
            if (row["factor"], row["protocol"], row["network"], row["level"]) == asked
        ]

    trained, untrained = rows("trained"), [row["accuracy"] for row in rows("untrained")]
    shown = mean_and_interval([row["accuracy"] for row in trained])
    if len(trained) == 1:
        low, high = trained[0]["interval"]
        shown += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{shown} ({100 * sum(untrained) / len(untrained):.1f})"


def main() -> None:
    """Probe the levels of the runs named on the command line, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--max-train", type=int, default=10_000)
    parser.add_argument("--max-test", type=int, default=None)
    parser.add_argument("--protocols", default="knn,linear")
    parser.add_argument("--group", default="", help="name and classes of a group, as in animal=2,3,4,5,6,7")
    parser.add_argument("--pixel-factors", action="store_true", help="also fineness of texture and colour, from pixels")
    parser.add_argument("--depths", default="", help="probe these depths, whatever levels the runs were trained on")
    parser.add_argument("--out", type=Path, required=True, help="OUT.md and OUT.json are written")
    asked = parser.parse_args()
    first = encoder_of(asked.runs[0], asked.depths)
    about = first.card["preprocess"]
    resize = ResizeToInput(tuple(about["image_size"]), len(about["mean"]), about["fit"], first.value_range)
    sources = [open_source(name, resize.channels) for name in (asked.train, asked.test)]
    renumber_classes(*sources)
    limits = (asked.max_train, asked.max_test)
    images = [ResizedImages(source, resize, limit=limit) for source, limit in zip(sources, limits, strict=True)]
    sets = with_factors(images, asked.group, asked.pixel_factors)
    protocols = asked.protocols.split(",")
    depths = {str(number): f"level {number} ({each})" for number, each in enumerate(first.card_levels)}
    words = [f"--train {asked.train} --test {asked.test} --max-train {asked.max_train}"]
    words += [f"--max-test {asked.max_test}"] if asked.max_test else []
    words += [f"--group {asked.group}"] if asked.group else []
    words += [f"--depths {asked.depths}"] if asked.depths else []
    words += ["--pixel-factors"] if asked.pixel_factors else []
    found = {
        "command": f"python benchmarks/quality/levels_know.py {' '.join(map(str, asked.runs))} {' '.join(words)}",
        "train": asked.train,
        "test": asked.test,
        "n_train": len(sets[0]),
        "n_test": len(sets[1]),
        "steps": first.card["provenance"]["step"],
        "protocols": protocols,
        "levels": {**depths, "last": "last block", "all": "all together"},
        "controls": controls(sets),
        "runs": [
            {"run": str(folder), "rows": probe_run(folder, asked.depths, sets, protocols)} for folder in asked.runs
        ],
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    asked.out.with_suffix(".md").write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
