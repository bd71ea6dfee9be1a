"""Which images are the same, byte for byte, and which look the same."""

import numpy as np

MAX_BITS = 3  # of 64 that may differ: with 4 parts of the hash, one of them is equal
MAX_DIFFERENCE = 6.0  # of 255, the mean over a thumbnail
FLAT = 12  # thumbnails of fewer grey values have no pattern to compare
NEIGHBOURS = 64  # images of an equal part of the hash that each image is compared with


def exact_groups(digests: np.ndarray, among: np.ndarray) -> list[np.ndarray]:
    """Return the groups of equal digests, each in ascending order; ``among`` says which images count."""
    indices = np.flatnonzero(among)
    order = indices[np.argsort(digests[indices].view("S16").ravel(), kind="stable")]
    words = np.ascontiguousarray(digests[order]).view(np.uint64).reshape(-1, 2)
    return _runs(order, np.r_[True, (words[1:] != words[:-1]).any(1)] if len(order) else np.empty(0, bool))


def near_groups(thumbnails: np.ndarray, among: np.ndarray) -> list[np.ndarray]:
    """Return groups of images that look alike, by thumbnails [n, 8, 9] of hardly different values and equal gradients.

    Each image is compared with at most ``NEIGHBOURS`` others for each part of its hash, so a few may be missed where
    thousands look alike.
    """
    spread = thumbnails.max((1, 2)).astype(np.int16) - thumbnails.min((1, 2))
    indices = np.flatnonzero(among & (spread >= FLAT))
    if len(indices) < 2:
        return []
    chosen = thumbnails[indices]
    hashes = np.packbits((chosen[:, :, 1:] > chosen[:, :, :-1]).reshape(len(indices), 64), axis=1)
    words, parts = hashes.view(np.uint64).ravel(), hashes.view(np.uint16)
    parent = np.arange(len(indices))
    for part in range(parts.shape[1]):
        order = np.lexsort((words, parts[:, part]))
        for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            first, second = order[:-step], order[step:]
            alike = parts[first, part] == parts[second, part]
            if not alike.any():
                break
            first, second = first[alike], second[alike]
            alike = np.bitwise_count(words[first] ^ words[second]) <= MAX_BITS
            first, second = first[alike], second[alike]
            gap = np.abs(chosen[first].astype(np.int16) - chosen[second]).mean((1, 2))
            for a, b in zip(first[gap <= MAX_DIFFERENCE].tolist(), second[gap <= MAX_DIFFERENCE].tolist(), strict=True):
                _join(parent, a, b)
    roots = np.array([_root(parent, place) for place in range(len(parent))])
    order = np.argsort(roots, kind="stable")
    return _runs(indices[order], np.r_[True, roots[order][1:] != roots[order][:-1]])


def _runs(order: np.ndarray, begins: np.ndarray) -> list[np.ndarray]:
    """Return the runs of two or more, by their first image."""
    starts = np.flatnonzero(begins)
    lengths = np.diff(np.r_[starts, len(order)])
    groups = [np.sort(order[s : s + n]) for s, n in zip(starts[lengths > 1], lengths[lengths > 1], strict=True)]
    return sorted(groups, key=lambda group: int(group[0]))


def _root(parent: np.ndarray, place: int) -> int:
    while parent[place] != place:
        parent[place] = parent[parent[place]]
        place = int(parent[place])
    return place


def _join(parent: np.ndarray, a: int, b: int) -> None:
    a, b = _root(parent, a), _root(parent, b)
    parent[max(a, b)] = min(a, b)
