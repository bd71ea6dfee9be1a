"""The interface of image sources, and the numbering of classes."""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from hjepa.errors import UserError

USUAL_CHANNELS = (1, 3, 4)  # grey, colour, colour with a fourth channel


@runtime_checkable
class ImageSource(Protocol):
    """Indexed images; ``labels`` maps the name of a label to int64 [n] and is empty if there are none."""

    name: str

    @property
    def channels(self) -> int:
        """Return the number of channels that holds every image."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray:
        """Return image ``index`` as uint8 [H, W, C], or uint16 or float32 if it has more than 8 bits."""
        ...

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """Return the labels of the images, by name."""
        ...

    def fingerprint(self) -> str:
        """Return a string that changes when the images or their order change."""
        ...


def refuse_channels(what: str, shape: Sequence[int], have: int, wanted: int | None, expected: str) -> None:
    """Raise UserError if another axis was probably mistaken for the channels: training on it would be pointless."""
    if have not in (*USUAL_CHANNELS, wanted):
        raise UserError(
            f"{what} of shape {list(shape)} has {have} channels: expected {expected} with C = 1, 3 or 4; "
            f"move the axes, or use --data.channels {have} if this is intended"
        )


def number_classes(names: Iterable[str | None]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the sorted class names, and the class number of each image; empty if any image has no class."""
    met: dict[str, int] = {}
    numbers = array("q")
    for name in names:
        if not name:
            return [], {}
        numbers.append(met.setdefault(name, len(met)))
    if not met:
        return [], {}
    classes = sorted(met)
    places = np.empty(len(met), dtype=np.int64)
    places[[met[name] for name in classes]] = np.arange(len(met))
    return classes, {"label": places[np.frombuffer(numbers, dtype=np.int64)]}


def renumber_classes(train: ImageSource, test: ImageSource) -> None:
    """Renumber the classes of the test images as in the training set: each source numbers its own classes.

    Labels that are numbers from the start (an array, a Dataset, fashion-mnist) are their own names, so they
    match a list with the labels 3 and 7. Raises UserError if the test set has a class that the training
    set lacks.
    """
    if "label" not in train.labels or "label" not in test.labels:
        return  # other kinds of labels, or none: reported by the evaluation
    known, asked = _class_names(train), _class_names(test)
    if known == asked:
        return
    numbers = {name: number for number, name in known.items()}
    if strange := [name for name in asked.values() if name not in numbers]:
        raise UserError(
            f"{test.name} has the class {strange[0]!r}, which is missing from {train.name}: "
            f"its classes are {', '.join(list(numbers)[:10])}"
        )
    test.labels["label"] = np.array([numbers[asked[own]] for own in test.labels["label"].tolist()], dtype=np.int64)


def fingerprint_with_labels(source: ImageSource) -> str:
    """Return a string that changes when the images, their order or their labels change."""
    digest = hashlib.sha256(source.fingerprint().encode())
    for name, numbers in sorted(source.labels.items()):
        digest.update(name.encode() + np.ascontiguousarray(numbers).tobytes())
    return digest.hexdigest()[:16]


def _class_names(source: ImageSource) -> dict[int, str]:
    """Return the name of each class number that occurs."""
    names = getattr(source, "classes", None)
    return {int(n): names[n] if names else str(n) for n in np.unique(source.labels["label"])}
