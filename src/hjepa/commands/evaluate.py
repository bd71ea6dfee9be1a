"""``hjepa evaluate``: probe a run's target encoder on labelled images."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa.data.augment import ResizeToInput
from hjepa.data.loader import ResizedImages
from hjepa.data.sources import fingerprint_with_labels, open_source, renumber_classes
from hjepa.errors import UserError
from hjepa.files import write_json
from hjepa.models.frozen import FrozenEncoder, load_frozen, random_init_copy
from hjepa.report import write_report
from hjepa.runs.folder import RunFolder
from hjepa.runs.run import Run
from hjepa.setup.machine import autocast_dtype, choose_device, choose_precision

if TYPE_CHECKING:
    from hjepa.evaluation import Result

OF_PIXELS = "Level {} is computed from pixels without any weights, so it reveals nothing about pretraining."
SAME_IMAGES = "Training and test images are the same, so these results do not generalise; use two different sets."


@dataclass(frozen=True)
class Evaluation:
    """Results with their baselines, and a summary in words."""

    results: list[Result]
    conclusion: str
    harm: str = ""  # a warning if the encoder is worse than random init, with what to do; otherwise empty

    def to_json(self) -> dict[str, Any]:
        """Return the stable form of ``hjepa evaluate --json``."""
        results = [result.to_json() for result in self.results]
        return {"results": results, "conclusion": self.conclusion, "harm": self.harm}


def evaluate(
    run: Run | str | os.PathLike[str],
    *,
    train: Any,
    test: Any,
    protocols: str | Sequence[str] = ("knn", "linear"),
    poolings: str | Sequence[str] = ("avg",),
    level: str | int = "last",
    max_train: int | None = None,
    max_test: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Probe a run's target encoder on labelled images, with a random-init encoder and raw pixels as baselines.

    ``protocols`` and ``poolings`` are lists of names, or one comma-separated string as on the command line.
    ``level`` is ``last``, the number of a level (0 is the finest), or ``all``: all levels and the last block,
    L2-normalised and concatenated. ``progress`` gets a line before each measurement, ``on_images`` the
    numbers of images done and of all images while features are extracted.
    Writes evaluation.json into the run after each measurement and rebuilds its report at the end. Earlier results on
    the same images are kept unless they are measured again. Raises UserError in one line.
    """
    from hjepa.evaluation import protocol  # imports scikit-learn, which training does not need
    from hjepa.evaluation.levels import views_of

    protocols, poolings = _names(protocols), _names(poolings)
    for name, limit in (("max_train", max_train), ("max_test", max_test)):
        if limit is not None and limit < 1:
            raise UserError(f"--{name.replace('_', '-')} {limit}: must be at least 1; omit it to use all images")
    path = _path(run)
    device = choose_device("auto")
    precision, _reason = choose_precision("auto", device)
    encoder = load_frozen(path).to(device)
    control = random_init_copy(encoder, seed=encoder.card["provenance"]["seed"]).to(device)
    preprocess = encoder.card["preprocess"]
    resize = ResizeToInput(
        tuple(preprocess["image_size"]), len(preprocess["mean"]), preprocess["fit"], encoder.value_range
    )
    sources = [open_source(data, resize.channels, encoder.pages) for data in (train, test)]
    renumber_classes(*sources)
    labelled = [
        ResizedImages(source, resize, limit=limit) for source, limit in zip(sources, (max_train, max_test), strict=True)
    ]
    folder = RunFolder(path)
    of_pixels = {str(number) for number, each in enumerate(encoder.card_levels) if each.depth == 0}
    same_images = sources[0].fingerprint() == sources[1].fingerprint()
    in_words = partial(_in_words, same_images=same_images, of_pixels=of_pixels)

    def harm(results: Sequence[Result]) -> str:
        return protocol.harm(_judged(results, of_pixels))

    record = {
        "train": labelled[0].name,
        "test": labelled[1].name,
        "images": [fingerprint_with_labels(source) for source in sources],
        "step": encoder.card["provenance"]["step"],
        "precision": precision,
    }

    def keep(results: Sequence[Result]) -> None:
        everything = [*_measured_before(folder.evaluation, results, record), *results]
        written = Evaluation(everything, in_words(everything), harm(everything))
        write_json(folder.evaluation, written.to_json() | record)

    results = protocol.evaluate(
        views_of(encoder, str(level)),
        views_of(control, str(level)),
        *labelled,
        level=str(level),
        protocols=protocols,
        poolings=poolings,
        seed=seed,
        batch_size=64 if device.type == "cpu" else 256,  # on a CPU activations that fit its caches are faster
        device=device,
        autocast=autocast_dtype(precision),
        progress=progress,
        on_images=on_images,
        keep=keep,
    )
    if folder.record.is_file():
        write_report(path)
    return Evaluation(results, in_words(results), harm(results))


def _judged(results: Sequence[Result], of_pixels: Collection[str]) -> list[Result]:
    """Return the results that depend on the encoder: levels of pixels are the same for every encoder."""
    return [result for result in results if result.level not in of_pixels]


def _in_words(results: Sequence[Result], *, same_images: bool, of_pixels: Collection[str]) -> str:
    """Summarise the results in words; levels in ``of_pixels`` do not count."""
    from hjepa.evaluation import protocol

    judged = _judged(results, of_pixels)
    said = [SAME_IMAGES] if same_images else []
    said += [OF_PIXELS.format(level) for level in sorted({result.level for result in results} & set(of_pixels))]
    said += [protocol.conclusion(judged)] if judged else []
    return " ".join(said)


def _measured_before(path: Path, now: Sequence[Result], record: Mapping[str, Any]) -> list[Result]:
    """Return earlier results from evaluation.json that were measured in the same way and are not measured again now."""
    from hjepa.evaluation import Result

    try:
        known = json.loads(path.read_text())
        earlier = [Result.from_json(row) for row in known["results"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or of another version
        return []
    if any(known.get(name) != value for name, value in record.items()):
        return []
    again, counts = {result.key for result in now}, {(result.n_train, result.n_test) for result in now}
    return [one for one in earlier if one.key not in again and (one.n_train, one.n_test) in counts]


def load_encoder(run: Run | str | os.PathLike[str]) -> FrozenEncoder:
    """Load the target encoder of a run: a module that maps images [B, C, H, W] to tokens and pooled features."""
    return load_frozen(_path(run))


def _names(given: str | Sequence[str]) -> Sequence[str]:
    """Split a comma-separated string into names; a list of names is returned as it is."""
    return [name.strip() for name in given.split(",")] if isinstance(given, str) else given


def _path(run: Run | str | os.PathLike[str]) -> Path:
    return run.path if isinstance(run, Run) else Path(run).expanduser()
