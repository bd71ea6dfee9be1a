"""The built-in dataset: procedurally rendered scenes with known factors at three scales.

A scene is a sky, a textured ground and three objects. Three factors are known for each image and are
independent of one another: ``texture`` (fine: the pattern on the ground and, faintly, on objects, period 5 to
7 pixels), ``shape`` (medium: the parts of each object, 12 to 30 pixels) and ``layout`` (coarse: how the
three objects are arranged across the image). Everything else is a nuisance variable, sampled independently of the
factors: colours, light from bright to dim and from one side, horizon, noise, places, distances and sizes,
rotations of a few degrees, which objects are dark and which bright, and the texture's period, orientation within
a few degrees, phase, contrast and polarity. All shapes have the same area, all layouts the same number
of objects, and textures either sign, so that the mean colour carries no information about a factor (within 2 of 255
levels, where scenes vary by 40).

Lengths are in *units*: the short side of an image is 64 units, so a unit is a pixel at the default size.

Every value is a pure function of (seed, split, index), and every pixel is computed with operations that
IEEE 754 rounds exactly (no SIMD sine, power or matrix product). Hence an image is bit-identical alone
and in any batch.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hjepa.data.scene_factors import FACTOR_CLASSES, FACTORS, PLACES, SHAPES, TEXTURES, Floats
from hjepa.errors import UserError
from hjepa.randomness import generator

Integers = NDArray[np.int64]

VERSION = 2  # part of the fingerprint; raise it whenever a pixel of any scene changes
UNITS = 64.0  # the short side of an image
OBJECTS = 3
REACH = 14.5  # no object extends further than this from its centre, in units
MIN_SIZE = 16  # below this, objects have no visible texture
TILE = 12  # images drawn at a time: their float32 planes stay in the second-level cache
NOISE_SHIFTS = 128  # each image reads its noise at one of 128 x 128 places of a larger noise plane

# Directions come from a table: looking up gives the same bits for any number of angles, np.cos need not.
TURN = 4096
_ANGLES = np.arange(TURN) * (2 * np.pi / TURN)
COSINE: Floats = np.cos(_ANGLES).astype(np.float32)
SINE: Floats = np.sin(_ANGLES).astype(np.float32)


# --- draws ----------------------------------------------------------------------------------------------


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit integers one to one: the finaliser of SplitMix64 (Steele et al., 2014, figure 16)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _uniform(key: np.uint64, indices: Integers, columns: int) -> Floats:
    """Return float32 [B, columns] in [0, 1): row b is a function of (key, indices[b]) alone.

    A counter-based draw, because one ``numpy`` generator per image would cost as much as drawing it.
    """
    streams = _mix(_mix(indices.astype(np.uint64)) + key)[:, None]
    steps = np.arange(1, columns + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's gamma
    return (_mix(streams + steps) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def _between(draw: Floats, low: float, high: float) -> Floats:
    return np.float32(low) + draw * np.float32(high - low)


def _signed(draw: Floats, low: float, high: float) -> Floats:
    """Return magnitudes from low to high with either sign, from one draw."""
    sign = np.where(draw < 0.5, np.float32(-1), np.float32(1))
    return sign * _between(np.abs(2 * draw - 1), low, high)


def _direction(draw: Floats) -> tuple[Floats, Floats]:
    """Return cosine and sine of the angle at ``draw`` turns (any sign)."""
    step = np.floor(draw * TURN).astype(np.int64) % TURN
    return COSINE[step], SINE[step]


def _rgb(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """Return [..., 3] of hue (turns), saturation and value (Smith, 1978, written without branches)."""
    sector = hue[..., None] * 6 + np.array([0, 4, 2], np.float32)
    sector -= 6 * np.floor(sector / 6)
    grey = 1 - np.clip(np.abs(sector - 3) - 1, 0, 1)
    colour: Floats = value[..., None] * (1 - saturation[..., None] * grey)
    return colour


def _palette(draw: Floats) -> dict[str, Floats]:
    """Return colours [B, 3] (sky at top and at horizon, ground) and [B, OBJECTS, 3] (body, core).

    Sky and ground are each pale or dark; objects are saturated, in hues at least a fifth of a turn from
    the sky's, each dark or bright for itself, with a core at the other end of brightness. ``draw`` is
    [B, 12 + 3 * OBJECTS].
    """
    hue, far = draw[:, 0], draw[:, 0] + _between(draw[:, 1], 0.2, 0.8)
    dark_sky, dark_ground = draw[:, 2] < 0.5, draw[:, 3] < 0.5
    dark_body = draw[:, 12 + 2 * OBJECTS :] < 0.5  # [B, OBJECTS], each for itself

    def value(
        dark: NDArray[np.bool_], level: Floats, when_dark: tuple[float, float], otherwise: tuple[float, float]
    ) -> Floats:
        return np.where(dark, _between(level, *when_dark), _between(level, *otherwise))

    sky_value = value(dark_sky, draw[:, 5], (0.15, 0.4), (0.85, 1.0))
    ground_value = value(dark_ground, draw[:, 6], (0.2, 0.45), (0.7, 0.95))
    body_value = value(dark_body, draw[:, 7:8], (0.1, 0.35), (0.8, 1.0))
    core_value = value(~dark_body, draw[:, 8:9], (0.05, 0.25), (0.85, 1.0))
    pale = _between(draw[:, 9], 0.1, 0.5)
    bodies = far[:, None] + _between(draw[:, 12 : 12 + OBJECTS], -0.1, 0.1)
    return {
        "sky": _rgb(hue, np.where(dark_sky, pale + np.float32(0.35), pale), sky_value),
        "horizon": _rgb(hue + _between(draw[:, 10], -0.15, 0.15), 0.6 * pale, np.sqrt(sky_value)),
        "ground": _rgb(hue + _between(draw[:, 11], -0.15, 0.15), 0.3 + 0.6 * pale, ground_value),
        "core": _rgb(far[:, None] + np.float32(0.5), pale[:, None], core_value),
        "body": _rgb(bodies, _between(draw[:, 12 + OBJECTS : 12 + 2 * OBJECTS], 0.65, 0.95), body_value),
    }


# --- drawing --------------------------------------------------------------------------------------------


def _groups(labels: Integers) -> Iterator[tuple[int, Integers]]:
    """Yield each class that occurs with the rows that have it."""
    for label in np.unique(labels):
        yield int(label), np.flatnonzero(labels == label)


def _coverage(distance: Floats, pixel: float) -> Floats:
    """Return how much of a pixel lies inside, 0 to 1, from its centre's signed distance in units."""
    covered = distance * np.float32(-1 / pixel)
    covered += 0.5
    return np.clip(covered, 0, 1, out=covered)


def _pattern(labels: Integers, x: Floats, y: Floats, draw: Floats, pixel: float) -> Floats:
    """Return the textures [N, h, w] in [-1, 1] at x [N, 1, w] and y [N, h, 1] (units); ``draw`` is [N, 4]."""
    period = _between(draw[:, 0], 5.0, 7.0)
    cosine, sine = _direction(_between(draw[:, 1], -0.06, 0.06))
    # Edges of the triangle wave rise by 4 a period; make them rise from -1 to 1 within one pixel.
    sharpness = np.maximum(period / np.float32(2 * pixel), 1)[:, None, None]
    a, b, p, q = (t[:, None, None] for t in (cosine / period, sine / period, 64 * draw[:, 2], 64 * draw[:, 3]))
    out = np.empty(np.broadcast_shapes(x.shape, y.shape), np.float32)
    textures = list(TEXTURES.values())
    for label, rows in _groups(labels):
        a_, b_, x_, y_ = a[rows], b[rows], x[rows], y[rows]
        height = textures[label]((a_ * x_ + p[rows]) + b_ * y_, a_ * y_ + (q[rows] - b_ * x_))
        height *= sharpness[rows]
        out[rows] = np.clip(height, -1, 1, out=height)
    return out


def _distances(labels: Integers, x: Floats, y: Floats) -> Floats:
    """Return the shapes' signed distances [N, h, w] at object coordinates x, y [N, h, w]."""
    out = np.empty(x.shape, np.float32)
    shapes = list(SHAPES.values())
    for label, rows in _groups(labels):
        out[rows] = shapes[label](x[rows], y[rows])
    return out


class Scenes:
    """Images drawn on demand: uint8 [H, W, 3], a pure function of (seed, split, index, size).

    ``length`` bounds ``len()`` and the indices accepted, not the content: image i is the same for every
    length. ``size`` is the side in pixels, or (H, W). Raises UserError for a split other than ``train`` or
    ``test``, a length below 1, or a side below 16 pixels.
    """

    channels = 3

    def __init__(
        self, split: str = "train", *, length: int = 50_000, size: int | tuple[int, int] = 64, seed: int = 0
    ) -> None:
        if split not in ("train", "test"):
            raise UserError(f"scenes has no split '{split}'; use 'train' or 'test'")
        if length < 1:
            raise UserError(f"scenes cannot have length {length}; use 1 or more")
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < MIN_SIZE:
            raise UserError(f"scenes cannot be drawn at {height}x{width} pixels; use at least {MIN_SIZE} a side")
        self.name = f"scenes:{split}"
        self.split, self.length, self.size, self.seed = split, length, (height, width), seed
        self._keys = generator(seed, f"scenes-{split}").integers(0, 2**64, size=7, dtype=np.uint64)
        self._pixel = UNITS / min(height, width)  # side of a pixel in units
        self._extent = height * self._pixel, width * self._pixel  # of the image, in units
        plane = (height + NOISE_SHIFTS, width + NOISE_SHIFTS)
        self._noise: Floats = generator(seed, "scenes-noise").standard_normal(plane, np.float32)
        self._labels: dict[str, Integers] | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return image ``index``, uint8 [H, W, 3]; IndexError outside 0 to len - 1."""
        image: NDArray[np.uint8] = self.batch([index])[0]
        return image

    @property
    def labels(self) -> dict[str, Integers]:
        """The known factors, name -> int64 [len]; computed once, without rendering."""
        if self._labels is None:
            table = self._factors(np.arange(self.length, dtype=np.int64))
            self._labels = {name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(FACTORS)}
        return self._labels

    def fingerprint(self) -> str:
        """Return what defines the content, in one short line."""
        height, width = self.size
        drawn = f"scenes-v{VERSION} split={self.split} length={self.length}"
        return f"{drawn} size={height}x{width} seed={self.seed}"

    def batch(self, indices: Sequence[int] | ArrayLike) -> NDArray[np.uint8]:
        """Return uint8 [B, H, W, 3], the images at ``indices``; IndexError outside 0 to len - 1."""
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < self.length):
            raise IndexError(f"scenes has images 0 to {self.length - 1}; asked for {wanted.min()} to {wanted.max()}")
        out = np.empty((len(wanted), *self.size, 3), np.uint8)
        plan = self._plan(wanted)
        for start in range(0, len(wanted), TILE):
            tile = slice(start, start + TILE)
            self._draw({name: values[tile] for name, values in plan.items()}, out[tile])
        return out

    def _factors(self, indices: Integers) -> Integers:
        """Return the classes [B, 3], in the order of FACTORS."""
        classes = np.array([FACTOR_CLASSES[name] for name in FACTORS], np.float32)
        table: Integers = np.floor(_uniform(self._keys[0], indices, len(FACTORS)) * classes).astype(np.int64)
        return table

    def _plan(self, indices: Integers) -> dict[str, Any]:
        """Return all that is drawn at random for the images, each an array of B rows."""
        texture, shape, layout = self._factors(indices).T
        plan = {"texture": texture, "shape": shape}
        plan |= _palette(_uniform(self._keys[1], indices, 12 + 3 * OBJECTS))
        plan["scene"] = _uniform(self._keys[4], indices, 4)
        plan["scale"] = _between(plan["scene"][:, 0], 0.75, 1.0)  # how near the three objects are: size and distances
        plan["centres"] = self._centres(layout, plan["scale"], _uniform(self._keys[2], indices, 5 + 2 * OBJECTS))
        plan["backdrop"] = _uniform(self._keys[3], indices, 7)
        # What differs from object to object: size, rotation, and the texture's four numbers.
        plan["objects"] = _uniform(self._keys[5], indices, OBJECTS * 6).reshape(-1, OBJECTS, 6)
        plan["light"] = _uniform(self._keys[6], indices, 6)
        return plan

    def _draw(self, plan: dict[str, Any], out: NDArray[np.uint8]) -> None:
        """Draw a few images into ``out`` [B, H, W, 3]."""
        canvas = self._backdrop(plan)
        self._add_objects(canvas, plan)
        self._light(canvas, plan["light"])
        pixels = np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)
        for channel in range(3):  # three plain strided copies: 2.5 times faster than one transposed copy
            out[..., channel] = pixels[:, channel]

    def _grid(self) -> tuple[Floats, Floats]:
        """Return the pixel centres in units, x [1, 1, W] and y [1, H, 1]."""
        y, x = ((np.arange(n, dtype=np.float32) + 0.5) * np.float32(self._pixel) for n in self.size)
        return x[None, None, :], y[None, :, None]

    def _backdrop(self, plan: dict[str, Any]) -> Floats:
        """Return sky and textured ground, float32 [B, 3, H, W] in [0, 1]."""
        draw: Floats = plan["backdrop"]
        x, y = self._grid()
        height, width = self._extent
        contrast = _signed(draw[:, 6], 0.15, 0.3)
        value = _pattern(plan["texture"], x.repeat(len(draw), 0), y.repeat(len(draw), 0), draw[:, :4], self._pixel)
        value *= contrast[:, None, None]
        value += 1
        middle = (_between(draw[:, 4], 0.5, 0.85) * height)[:, None, None]
        slope = _between(draw[:, 5], -0.25, 0.25)[:, None, None]
        level = middle + slope * (x - width / 2)  # y of the horizon in each column, [B, 1, W]
        covered = _coverage(level - y, self._pixel)
        blend = (y / height).clip(0, 1)[:, None]  # [1, 1, H, 1]
        sky, horizon, ground = (plan[name][:, :, None, None] for name in ("sky", "horizon", "ground"))
        above = sky + (horizon - sky) * blend
        canvas: Floats = ground * value[:, None]
        canvas -= above
        canvas *= covered[:, None]
        canvas += above
        return canvas

    def _centres(self, layout: Integers, scale: Floats, draw: Floats) -> Floats:
        """Return the objects' centres (x, y) in units, [B, OBJECTS, 2]; ``draw`` is [B, 5 + 2 * OBJECTS]."""
        height, width = self._extent
        cosine, sine = (t[:, None] for t in _direction(_between(draw[:, 4], -0.04, 0.04)))
        x, y = np.moveaxis(PLACES[layout], 2, 0)
        places = np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=2)
        places *= scale[:, None, None] * _between(draw[:, 0:2], 0.28, 0.35)[:, None]
        # The whole group moves as far as keeps every centre at least 0.1 of the side from the border.
        room = np.maximum(np.float32(0.4) - np.abs(places).max(axis=1), 0)
        offset = room * _between(draw[:, 2:4], -1, 1)
        jitter = _between(draw[:, 5:].reshape(-1, OBJECTS, 2), -2.5, 2.5)
        centres: Floats = (places + offset[:, None] + np.float32(0.5)) * np.array([width, height], np.float32) + jitter
        return centres

    def _add_objects(self, canvas: Floats, plan: dict[str, Any]) -> None:
        """Paint the objects of each scene on ``canvas``, in place."""
        draw: Floats = plan["scene"]
        own: Floats = plan["objects"]
        radius = (np.float32(8.6) * plan["scale"][:, None] * _between(own[..., 0], 0.92, 1.08)).reshape(-1)
        turn = (_between(draw[:, 1:2], -0.05, 0.05) + _between(own[..., 1], -0.03, 0.03)).reshape(-1)
        centre = plan["centres"].reshape(-1, 2)
        x, y, corners = self._crops(centre)
        pattern = _pattern(plan["texture"].repeat(OBJECTS), x, y, own[..., 2:6].reshape(-1, 4), self._pixel)
        cosine, sine = (t[:, None, None] for t in _direction(turn))
        inverse = 1 / radius[:, None, None]
        u, v = (cosine * x + sine * y) * inverse, (cosine * y - sine * x) * inverse
        distance = _distances(plan["shape"].repeat(OBJECTS), u, v) * radius[:, None, None]
        core_radius = (_between(draw[:, 2:3], 0.28, 0.4) * radius.reshape(-1, OBJECTS)).reshape(-1, 1, 1)
        core = _coverage(np.sqrt(x * x + y * y) - core_radius, self._pixel)
        alpha = np.maximum(_coverage(distance, self._pixel), core)

        # The body's brightness: its texture, and a darker rim of one unit.
        value = pattern * _signed(draw[:, 3:4], 0.05, 0.15).repeat(OBJECTS, 1).reshape(-1, 1, 1) + 1
        value *= np.float32(0.5) + np.float32(0.5) * _coverage(distance + np.float32(1.2), self._pixel)
        value *= alpha - core  # the core covers the body, and is part of alpha
        through = np.subtract(1, alpha, out=alpha)
        bodies, cores = plan["body"].reshape(-1, 3, 1, 1), plan["core"].reshape(-1, 3, 1, 1)
        # One object at a time: its three channels stay in the first-level cache.
        for i, (top, left) in enumerate(corners.tolist()):
            behind = canvas[i // OBJECTS, :, top : top + y.shape[1], left : left + x.shape[2]]
            behind *= through[i]
            behind += bodies[i] * value[i]
            behind += cores[i] * core[i]

    def _crops(self, centre: Floats) -> tuple[Floats, Floats, Integers]:
        """Return x [N, 1, w], y [N, h, 1] relative to the centres (units), and (top, left) pixels [N, 2].

        A crop that would stick out is pushed inside: it still holds all of the object that is visible.
        """
        pixel, size = np.float32(self._pixel), np.array(self.size)
        side = np.minimum(int(np.ceil(2 * REACH / self._pixel)) + 1, size)  # [h, w]
        corners = np.floor((centre[:, ::-1] - np.float32(REACH)) / pixel).astype(np.int64)
        corners = np.clip(corners, 0, size - side)
        y, x = (
            (corners[:, i, None] + np.arange(side[i]) + 0.5).astype(np.float32) * pixel - centre[:, 1 - i, None]
            for i in (0, 1)
        )
        return x[:, None, :], y[:, :, None], corners

    def _light(self, canvas: Floats, draw: Floats) -> None:
        """Shade along one direction, dim, scale to 0..255 and add grey noise, in place; ``draw`` is [B, 6]."""
        x, y = self._grid()
        height, width = self._extent
        cosine, sine = _direction(draw[:, 0])
        strength = _between(draw[:, 1], 0, 0.8 * 255) / np.float32(UNITS)
        along_x, along_y = (cosine * strength)[:, None, None], (sine * strength)[:, None, None]
        light = (along_x * (x - width / 2) + np.float32(255)) + along_y * (y - height / 2)
        light *= _between(draw[:, 5], 0.4, 1.0)[:, None, None]
        canvas *= light[:, None]
        level = _between(draw[:, 2], 0.0, 0.04 * 255)
        shifts = np.floor(draw[:, 3:5] * NOISE_SHIFTS).astype(np.int64).tolist()
        for i, (top, left) in enumerate(shifts):
            canvas[i] += level[i] * self._noise[top : top + self.size[0], left : left + self.size[1]]
