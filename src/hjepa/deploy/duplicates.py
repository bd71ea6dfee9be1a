"""Groups of images that are copies of one another: exact ones by content, others by vectors and then by pixels."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from hjepa.deploy.alignment import picture_agreement, picture_thumbnail
from hjepa.deploy.collection import Collection
from hjepa.deploy.contact_sheet import Pictures
from hjepa.deploy.copies import KINDS, make_copy
from hjepa.deploy.similarity import nearest, pairs_above
from hjepa.errors import UserError

CALIBRATED_ON = 128  # images, of which copies are made
FOUND_AS_CANDIDATES = 0.99  # part of the copies that the automatic threshold lets through
MOST_PAIRS = 50  # per image: beyond, the most similar ones are compared
_BATCH = 256  # pairs whose pixels are compared at once


@dataclass(frozen=True)
class Copy:
    """An image of a group that can be dropped."""

    index: int
    similarity: float  # cosine similarity to the kept image
    pixels: (
        float | None
    )  # correlation of gradients with the kept image; None if they were not compared, or are the same
    exact: bool  # the same file content as the kept image


@dataclass(frozen=True)
class Group:
    """An image to keep, and its copies; each was compared with the kept image itself."""

    keep: int
    copies: list[Copy]


@dataclass
class Calibration:
    """What was measured on copies made of the user's own images."""

    images: int
    threshold: float
    found: dict[str, float] = field(default_factory=dict)  # part of the copies that are found, by kind
    false_pairs: int = 0  # copies that were taken for copies of another image than their original
    others: int = 0  # images with which each copy was compared


class Thumbnails:
    """Thumbnails of images, read once each, and their sizes."""

    def __init__(self, pictures: Pictures, paths: Sequence[str]) -> None:
        self.pictures, self.paths = pictures, paths
        self.known: dict[int, np.ndarray] = {}
        self.sizes: dict[int, tuple[int, int]] = {}  # pixels and bytes

    def __getitem__(self, index: int) -> np.ndarray:
        if index not in self.known:
            pixels = self.pixels(index)
            self.known[index] = picture_thumbnail(pixels)
            self.sizes[index] = (
                pixels.shape[0] * pixels.shape[1],
                self.pictures.size_of_file(index, self.paths[index]),
            )
        return self.known[index]

    def pixels(self, index: int) -> np.ndarray:
        """Return an image; raises UserError if it is gone."""
        pixels = self.pictures.pixels(index, self.paths[index])
        if pixels is None:
            raise UserError(
                f"{self.paths[index]}: not found, so its pixels cannot be compared; pass the images, or compare their "
                "vectors alone with --no-pixels --threshold 0.99"
            )
        return pixels


def find_duplicates(
    collection: Collection,
    *,
    threshold: float | None,
    pixels: bool,
    notice: Callable[[str], None] = lambda _text: None,
) -> tuple[list[Group], Calibration | None]:
    """Return the groups, largest first, and what was measured on made copies (None without pixels).

    ``threshold`` None: the similarity that 99 % of the made copies of each kind have to their originals.
    """
    rows, vectors = collection.embeddings.images, collection.vectors
    readable = [index for index, row in enumerate(rows) if not row.error]
    exact = _exact_copies((rows[index].content_hash, index) for index in readable)
    unique = np.array(sorted(exact), dtype=np.int64)
    thumbnails = Thumbnails(collection.pictures(), collection.embeddings.paths)
    calibration = None
    if pixels:
        made = _MadeCopies(collection, vectors, unique, thumbnails)
        calibration = _calibrate(made, threshold)
    chosen = calibration.threshold if calibration is not None else threshold
    if chosen is None:
        raise UserError("--no-pixels: vectors alone have no threshold that fits all encoders; set --threshold 0.99")
    pairs, similarities = _best_pairs(vectors[unique], chosen, notice)
    pairs = unique[pairs]
    same, agreement = _compared(pairs, thumbnails) if pixels else (np.ones(len(pairs), dtype=bool), np.ones(len(pairs)))
    links: dict[int, dict[int, tuple[float, float | None]]] = defaultdict(dict)
    for (one, two), similarity, agrees in zip(pairs[same], similarities[same], agreement[same], strict=True):
        facts = (float(similarity), float(agrees) if pixels else None)
        links[int(one)][int(two)] = links[int(two)][int(one)] = facts
    if calibration is not None:
        _count_found(made, calibration, links)
    groups = _groups(links, exact, thumbnails.sizes)
    return sorted(groups, key=lambda group: (-len(group.copies), group.keep)), calibration


def _exact_copies(digests: Iterable[tuple[str, int]]) -> dict[int, list[int]]:
    """Return the first image of each content, with the others of that content."""
    first: dict[str, int] = {}
    found: dict[int, list[int]] = {}
    for digest, index in digests:
        if digest in first:
            found[first[digest]].append(index)
        else:
            first[digest], found[index] = index, []
    return found


def _groups(
    links: dict[int, dict[int, tuple[float, float | None]]],
    exact: dict[int, list[int]],
    sizes: dict[int, tuple[int, int]],
) -> Iterator[Group]:
    """Yield a star around each kept image: everything in a group is a copy of what is kept, not of one another alone.

    Chains (a like b, b like c) would join pictures that are no copies. The image of most pixels is kept, then the
    largest file, then the first.
    """
    taken: set[int] = set()
    for centre in sorted(exact, key=lambda index: (*(-size for size in sizes.get(index, (0, 0))), index)):
        if centre in taken:
            continue
        copies = [Copy(twin, 1.0, None, exact=True) for twin in exact[centre]]
        near = sorted(links.get(centre, {}).items(), key=lambda item: (-item[1][0], item[0]))
        for index, (similarity, agrees) in near:
            if index not in taken:
                taken.add(index)
                copies += [Copy(each, similarity, agrees, exact=False) for each in (index, *exact[index])]
        taken.add(centre)
        if copies:
            yield Group(centre, copies)


def _best_pairs(vectors: np.ndarray, threshold: float, notice: Callable[[str], None]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs above a threshold, int64 [p, 2], at most fifty per image, and their similarities."""
    most = MOST_PAIRS * max(len(vectors), 1)
    pairs, similarities = np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.float32)
    left_out = 0
    for some, close in pairs_above(vectors, threshold):
        pairs, similarities = np.concatenate([pairs, some]), np.concatenate([similarities, close])
        if len(pairs) > most:
            best = np.argpartition(-similarities, most)[:most]
            left_out += len(pairs) - most
            pairs, similarities = pairs[best], similarities[best]
    if left_out:
        notice(f"{left_out:,} pairs above the threshold were not compared, only the {most:,} most similar ones")
    return pairs, similarities


def _compared(pairs: np.ndarray, thumbnails: Thumbnails) -> tuple[np.ndarray, np.ndarray]:
    """Return which pairs show the same picture, bool [p], and how far their gradients agree, float32 [p]."""
    same, gradients = [np.empty(0, dtype=bool)], [np.empty(0, dtype=np.float32)]
    for start in range(0, len(pairs), _BATCH):
        some = pairs[start : start + _BATCH]
        found = picture_agreement(*([thumbnails[int(index)] for index in column] for column in some.T))
        same.append(found.same_picture)
        gradients.append(found.gradients)
    return np.concatenate(same), np.concatenate(gradients)


class _MadeCopies:
    """Copies of some of the unique images as a source of images, with their vectors and those of their originals."""

    def __init__(self, collection: Collection, vectors: np.ndarray, unique: np.ndarray, thumbnails: Thumbnails) -> None:
        self.name, self.channels = "copies", collection.encoder.channels
        self.labels: dict[str, np.ndarray] = {}
        count = min(CALIBRATED_ON, len(unique))
        self.originals = unique[np.arange(count) * len(unique) // max(count, 1)]
        self.unique, self.unique_vectors, self.thumbnails = unique, vectors[unique], thumbnails
        self.vectors_of_originals = vectors[self.originals]
        for original in self.originals:
            _ = thumbnails[int(original)]  # an image that is gone is an error here, not a row without a vector
        self.vectors = collection.embed(self)  # [copies, F]

    def __len__(self) -> int:
        return len(self.originals) * len(KINDS)

    def __getitem__(self, index: int) -> np.ndarray:
        original = int(self.originals[index // len(KINDS)])
        return make_copy(self.thumbnails.pixels(original), KINDS[index % len(KINDS)], original)

    def fingerprint(self) -> str:
        """Return what tells these copies from others."""
        return f"copies-{self.originals.tolist()}"


def _calibrate(made: _MadeCopies, threshold: float | None) -> Calibration:
    """Measure how similar copies are to their originals; without ``threshold`` it lets 99 % of each kind through."""
    count = len(made.originals)
    units = [_unit(each) for each in (made.vectors, made.vectors_of_originals)]
    similarities = (units[0].reshape(count, len(KINDS), -1) * units[1][:, None]).sum(2)
    automatic = float(np.nanquantile(similarities, 1 - FOUND_AS_CANDIDATES, axis=0).min())  # for each kind of copy
    return Calibration(count, automatic if threshold is None else threshold)


def _count_found(
    made: _MadeCopies, calibration: Calibration, links: dict[int, dict[int, tuple[float, float | None]]]
) -> None:
    """Count the made copies that the whole procedure finds, and those it takes for copies of another image.

    A copy of an image whose duplicate is in the collection is a copy of both.
    """
    found = nearest(np.nan_to_num(made.vectors), made.unique_vectors, 1 + MOST_PAIRS)
    calibration.others = len(made.unique) - 1
    hits = np.zeros(len(made), dtype=bool)
    for number, (places, similarities) in enumerate(zip(found.indices, found.similarities, strict=True)):
        original = int(made.originals[number // len(KINDS)])
        close = made.unique[places[similarities >= calibration.threshold]].tolist()
        if not close:
            continue
        thumbnail = picture_thumbnail(made[number])
        agreement = picture_agreement([thumbnail] * len(close), [made.thumbnails[index] for index in close])
        same = {index for index, agrees in zip(close, agreement.same_picture, strict=True) if agrees}
        hits[number] = original in same
        calibration.false_pairs += len(same - {original} - set(links.get(original, {})))
    calibration.found = {kind: float(hits[place :: len(KINDS)].mean()) for place, kind in enumerate(KINDS)}


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
