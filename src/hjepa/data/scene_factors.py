"""The three factors of a scene: textures (fine), shapes (medium) and layouts (coarse), eight of each."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]  # float32 in fact; the type checker widens products with Python numbers
Field = Callable[[Floats, Floats], Floats]


# --- fine: textures -------------------------------------------------------------------------------------
# Each maps coordinates in periods to a height whose sign is the pattern. Slopes are about 4 per period, so
# that one sharpening makes every edge a pixel wide.


def _wave(t: Floats) -> Floats:
    """Return the triangle wave of period 1: +1 at integers, -1 halfway between them."""
    t = t - np.floor(t)
    t -= 0.5
    np.abs(t, out=t)
    t *= 4
    t -= 1
    return t


def _to_integer(t: Floats) -> Floats:
    """Return the distance to the nearest integer, 0 to 0.5."""
    return np.abs(t - np.rint(t))


def _dots(u: Floats, v: Floats) -> Floats:
    u, v = 0.8 * u, 0.8 * v
    u, v = u - np.rint(u), v - np.rint(v)
    return 4 * (0.36 - np.sqrt(u * u + v * v))


def _bricks(u: Floats, v: Floats) -> Floats:
    v = 0.9 * v
    across = 2 * _to_integer(0.45 * u + 0.5 * np.floor(v))  # every other course is shifted by half a brick
    return 4 * (0.14 - np.minimum(across, _to_integer(v)))


def _weave(u: Floats, v: Floats) -> Floats:
    u, v = 1.2 * u, 1.2 * v
    cell = 0.5 * (np.floor(0.5 * u) + np.floor(0.5 * v))
    return np.where(cell == np.floor(cell), _wave(u), _wave(v))


def _mosaic(u: Floats, v: Floats) -> Floats:
    """Return square tiles of random height; the integer hash is Teschner et al. (2003), equation 1."""
    column, row = np.floor(1.2 * u).astype(np.int32), np.floor(1.2 * v).astype(np.int32)
    code = (column * np.int32(73856093)) ^ (row * np.int32(19349663))
    code = (code ^ (code >> 13)) * np.int32(83492791)
    height: Floats = ((code >> 12) & 255).astype(np.float32) * np.float32(2 / 255)
    return height - 1


TEXTURES: dict[str, Field] = {
    "stripes": lambda u, v: _wave(u),
    "zigzag": lambda u, v: _wave(u + 0.5 * _wave(0.5 * v)),
    "checks": lambda u, v: _wave(0.7 * u) * _wave(0.7 * v),
    "dots": _dots,
    "mesh": lambda u, v: np.maximum(_wave(0.8 * u), _wave(0.8 * v)) - 0.45,
    "bricks": _bricks,
    "weave": _weave,
    "mosaic": _mosaic,
}


# --- middle: shapes -------------------------------------------------------------------------------------
# Signed distances (negative inside; exact along straight edges, a bound at corners). Sizes are such that
# each shape has the area of the unit disc.


def _circle(x: Floats, y: Floats, radius: float) -> Floats:
    return np.sqrt(x * x + y * y) - np.float32(radius)


def _triangle(x: Floats, y: Floats) -> Floats:
    side = np.float32(0.8660254) * np.abs(x) - 0.5 * y  # cos 30 and sin 30 degrees
    return np.maximum(side, y) - np.float32(0.7775)


_PENTAGON_AXES = [(np.float32(np.cos(a)), np.float32(-np.sin(a))) for a in np.radians([108, 72, 36])]


def _fivefold(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Mirror the plane into one wedge of 36 degrees beside the y axis.

    Reflects, in turn, in the symmetry axes of a pentagon at 0, 108, 72 and 36 degrees from the y axis.
    """
    x = np.abs(x)
    for normal_x, normal_y in _PENTAGON_AXES:
        beyond = 2 * np.maximum(normal_x * x + normal_y * y, 0)
        x, y = x - beyond * normal_x, y - beyond * normal_y
    return x, y


def _star(x: Floats, y: Floats) -> Floats:
    x, y = _fivefold(x, y)
    return np.float32(0.7880108) * x + np.float32(0.6156615) * y - np.float32(0.7954)  # edge normal at 52 degrees


def _cross(x: Floats, y: Floats) -> Floats:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - np.float32(1.1817), np.minimum(x, y) - np.float32(0.4))


def _flower(x: Floats, y: Floats) -> Floats:
    x, y = _fivefold(x, y)
    return np.minimum(_circle(x, y - np.float32(0.66), 0.4467), _circle(x, y, 0.4467))


def _dumbbell(x: Floats, y: Floats) -> Floats:
    x = np.abs(x)
    bar = np.maximum(np.abs(y) - np.float32(0.264), x - np.float32(0.844))
    ends = _circle(x - np.float32(0.844), y, 0.686)
    return np.where(ends < bar, ends, bar)


SHAPES: dict[str, Field] = {
    "disc": lambda x, y: _circle(x, y, 1.0),
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - np.float32(0.8862269),
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": lambda x, y: np.abs(_circle(x, y, 0.86)) - np.float32(0.2907),
    "flower": _flower,
    "dumbbell": _dumbbell,
}


# --- coarse: layouts ------------------------------------------------------------------------------------
# Where the three objects stand, as (x, y) with y downwards; 1 is the spread drawn for the image.

LAYOUTS: dict[str, list[tuple[float, float]]] = {
    "row": [(-1, 0), (0, 0), (1, 0)],
    "column": [(0, -1), (0, 0), (0, 1)],
    "falling": [(-1, -1), (0, 0), (1, 1)],
    "rising": [(-1, 1), (0, 0), (1, -1)],
    "peak": [(-1, 0.7), (0, -0.7), (1, 0.7)],
    "valley": [(-1, -0.7), (0, 0.7), (1, -0.7)],
    "left": [(0.7, -1), (-0.7, 0), (0.7, 1)],
    "right": [(-0.7, -1), (0.7, 0), (-0.7, 1)],
}
PLACES: Floats = np.array(list(LAYOUTS.values()), np.float32)  # [8, 3, 2]

FACTORS = ("texture", "shape", "layout")  # fine, middle, coarse
FACTOR_CLASSES: dict[str, int] = {"texture": len(TEXTURES), "shape": len(SHAPES), "layout": len(LAYOUTS)}
