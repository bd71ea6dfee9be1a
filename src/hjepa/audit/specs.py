"""What published methods prescribe for their teacher, and which of them a measured series resembles.

Momentum is the teacher's share in ``t = m t + (1 - m) s``. Update number k is the one in the cycle of
optimizer step k, counted from 0: after that step in order A, before or in its forward in B and B'.
Constants were read in the public repositories at the commits named in each ``source`` (docs/audit.md).
"""

import difflib
import inspect
import itertools
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

KINDS = ("constant", "linear", "cosine", "linear-then-constant", "ramp", "warm-down-cosine", "frozen", "any")
ORDERS = ("A", "B", "B'")
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "kind": KINDS,
    "on_skipped_step": ("allowed", "forbidden"),
    "buffers": ("own", "copy", "ema", "none", "any"),
    "initial": ("equal", "any"),
    "stochastic_teacher": ("allowed", "forbidden"),
    "batchnorm": ("train", "eval", "any"),
    "target_normalisation": ("layer-norm", None),
}
SEEN_START = 3  # update number up to which a series shows the start of its schedule
SAME_START = 0.05  # in log(1 - m): two starts that are the same
_FLOOR = 2.0**-24 / math.sqrt(12.0)  # error of rounding to float32 in [0.5, 1): loops may keep momentum in it
_SHARE_FLOOR = 1e-7  # least share of the student told from 0 when momenta are compared


@dataclass(frozen=True)
class Spec:
    """What is prescribed for a teacher.

    ``start`` is the momentum at index 0 of the curve (of a ramp: of its first update), ``end`` the value it runs
    towards, ``middle`` the value after the warm-down. ``total_steps`` (None: not said, so horizon and slope cannot
    be judged) and ``anneal_steps`` are in optimizer steps; ``scale`` stretches the horizon (ipe_scale),
    ``cosine_share`` is the part of the half cosine that is run, ``first_index`` the index of the curve in update 0.
    ``batchnorm`` is the mode of the teacher's normalisation, ``variants`` other published settings of the method.
    Raises ValueError in one line that names key, value and remedy.
    """

    name: str
    kind: str
    start: float
    end: float
    total_steps: int | None = None
    anneal_steps: int | None = None
    scale: float = 1.0
    orders: frozenset[str] = frozenset({"A"})
    on_skipped_step: str = "allowed"
    buffers: str = "own"
    initial: str = "equal"
    target_normalisation: str | None = None
    stochastic_teacher: str = "forbidden"
    batchnorm: str = "any"
    middle: float | None = None
    cosine_share: float = 1.0
    first_index: int = 0
    source: str = ""
    notes: str = ""
    variants: tuple["Spec", ...] = ()

    def __post_init__(self) -> None:
        for key, values in _CHOICES.items():
            if (value := getattr(self, key)) not in values:
                _refuse(key, value, f"use {', '.join(repr(v) for v in values if v)}")
        for key in ("start", "end", "middle"):
            if key != "middle" or self.middle is not None:
                _check_momentum(key, getattr(self, key))
        for key in ("total_steps", "anneal_steps"):
            value = getattr(self, key)
            if value is not None and not (_is_whole(value) and value >= 1):
                _refuse(key, value, "count optimizer steps, a whole number of 1 or more, or leave it out")
        if not (_is_number(self.scale) and 0.0 < self.scale < math.inf):
            _refuse("scale", self.scale, "the horizon is multiplied by it, give a number above 0 such as 1.25")
        if not (_is_number(self.cosine_share) and 0.0 < self.cosine_share <= 1.0):
            _refuse(
                "cosine_share", self.cosine_share, "the part of the half cosine that is run, give a number in (0, 1]"
            )
        if not _is_whole(self.first_index):
            _refuse("first_index", self.first_index, "give a whole number, 0 for the start of the curve")
        if not self.orders or not self.orders <= set(ORDERS):
            _refuse("orders", sorted(self.orders), f"name one or more of {', '.join(ORDERS)}")
        self._check_kind()

    def _check_kind(self) -> None:
        if self.kind in ("constant", "frozen") and self.end != self.start:
            _refuse("end", self.end, f"a {self.kind} momentum stays at {self.start}, set that or kind = 'linear'")
        if self.kind == "frozen" and self.start != 1.0:
            _refuse("start", self.start, "a frozen teacher keeps all of itself, set 1.0 or kind = 'constant'")
        if self.kind in ("linear-then-constant", "warm-down-cosine") and self.anneal_steps is None:
            _refuse("anneal_steps", None, f"kind = {self.kind!r} needs the length of its first part in optimizer steps")
        if self.kind == "ramp" and self.start != self._ramp(0):
            _refuse("start", self.start, f"a ramp starts at {self._ramp(0):.6g}, change first_index or end instead")
        if self.kind == "warm-down-cosine":
            if self.middle is None:
                _refuse("middle", None, "kind = 'warm-down-cosine' needs the momentum at the end of its warm-down")
            if self.total_steps is not None and (self.anneal_steps or 0) >= self.total_steps:
                _refuse("anneal_steps", self.anneal_steps, f"set it below total_steps = {self.total_steps}")

    @property
    def prescribed(self) -> bool:
        """False when nothing is said about the values of the momentum."""
        return self.kind != "any"

    @property
    def starts(self) -> tuple[float, ...]:
        """Return every published start, this one first."""
        return tuple(dict.fromkeys([self.start, *(variant.start for variant in self.variants)]))

    @property
    def summary(self) -> str:
        """The prescribed momentum in a few words."""
        if not self.prescribed:
            return "nothing about the momentum"
        others = ", ".join(f"{start:.6g}" for start in self.starts[1:])
        start = f"{self.start:.6g}" + (f" (also published: {others})" if others else "")
        if self.start == self.end and self.kind != "warm-down-cosine":
            return f"{self.kind} {start}"
        middle = f" to {self.middle:.6g} and" if self.middle is not None else ""
        return f"{self.kind} from {start}{middle} to {self.end:.6g}"

    def momentum(self, update: int) -> float | None:
        """Return the prescribed momentum of update number ``update`` (from 0), None where it cannot be known."""
        if not self.prescribed or update < 0:
            return None
        if self.kind in ("constant", "frozen"):
            return self.start
        if self.kind == "ramp":
            return self._ramp(update)
        index = max(0, update + self.first_index)
        if self.kind == "warm-down-cosine":
            return self._warm_down_cosine(index)
        horizon = self.anneal_steps if self.kind == "linear-then-constant" else self.total_steps
        if index == 0:
            return self.start
        if horizon is None:
            return None
        done = min(1.0, index / (horizon * self.scale))
        return _half_cosine(self.start, self.end, done) if self.kind == "cosine" else _line(self.start, self.end, done)

    def closest(self, measured: Sequence[float], steps: Sequence[int], kind: str | None = None) -> "Spec":
        """Return that published setting of this method which is nearest to a measured series, the others beside it.

        The start decides, where it was seen: a setting whose start is right and whose curve is not has another
        schedule, not another momentum. Where the length of the run is not known, the measured ``kind`` does.
        """
        settings = (replace(self, variants=()), *self.variants)
        pairs = _finite(measured, steps)

        def rank(setting: Spec) -> tuple[bool, float, bool, float]:
            value, step = pairs[0]
            first = setting.momentum(step)
            off = _apart(value, setting.start if first is None else first)
            seen = step <= SEEN_START
            open_ended = setting.total_steps is None and setting.kind in ("linear", "cosine")
            unlike = kind is not None and open_ended != (kind != "constant") and setting.total_steps is None
            return seen and off > SAME_START, round(off, 2) if seen else 0.0, unlike, _distance(pairs, setting, None)

        best = min(settings, key=rank) if pairs else settings[0]
        return replace(best, variants=tuple(setting for setting in settings if setting is not best))

    def _ramp(self, update: int) -> float:
        return min(1.0 - 1.0 / (max(0, update + self.first_index) + 1), self.end)

    def _warm_down_cosine(self, index: int) -> float | None:
        assert self.anneal_steps is not None and self.middle is not None  # checked when built
        if index < self.anneal_steps:  # both ends of the line are used, the last one twice
            return _line(self.start, self.middle, index / max(1, self.anneal_steps - 1))
        if self.total_steps is None:
            return None
        done = (index - self.anneal_steps) / (self.total_steps - self.anneal_steps)
        return self.end if done >= 1.0 else _half_cosine(self.middle, self.end, self.cosine_share * done)


def ijepa(total_steps: int | None = None, *, start: float = 0.996, end: float = 1.0, scale: float = 1.0) -> Spec:
    """I-JEPA (arXiv:2301.08243, facebookresearch/ijepa): linear per step; the last value used stays below the end."""
    return Spec(
        "ijepa", "linear", start, end, total_steps, scale=scale, target_normalisation="layer-norm",
        source="facebookresearch/ijepa@52c1ae9:src/train.py:228-229,322-336; configs/in1k_vith14_ep300.yaml:42-48",
        notes="Parameters only are averaged, also when the scaler skipped the step.",
    )  # fmt: skip


def vjepa(total_steps: int | None = None, *, start: float = 0.998, end: float = 1.0, scale: float = 1.25) -> Spec:
    """V-JEPA (arXiv:2404.08471, facebookresearch/jepa): I-JEPA's line over 1.25 runs, so it stops near 0.9996."""
    return Spec(
        "vjepa", "linear", start, end, total_steps, scale=scale, target_normalisation="layer-norm",
        source="facebookresearch/jepa@51c59d5:app/vjepa/train.py:302-303,483-487; configs/pretrain/vitl16.yaml:78-90",
    )  # fmt: skip


def vjepa2(total_steps: int | None = None, *, start: float = 0.99925) -> Spec:
    """V-JEPA 2 (arXiv:2506.09985, facebookresearch/vjepa2): constant."""
    return Spec(
        "vjepa2", "constant", start, start, total_steps, target_normalisation="layer-norm",
        source="facebookresearch/vjepa2@c2963a4:app/vjepa/train.py:299-302,471-480;"
        " configs/train/vitg16/pretrain-256px-16f.yaml:87-89",
    )  # fmt: skip


def byol(total_steps: int | None = None, *, start: float | None = None, end: float = 1.0) -> Spec:
    """BYOL (arXiv:2006.07733, google-deepmind/deepmind-research): cosine; 0.996 (1000 epochs), 0.99, 0.97 (40)."""
    return _published(start, (0.996, 0.99, 0.97), lambda value: Spec(
        "byol", "cosine", value, end, total_steps, initial="any", stochastic_teacher="allowed", batchnorm="train",
        source="google-deepmind/deepmind-research:byol/byol_experiment.py (_update_fn); byol/utils/schedules.py",
        notes="The teacher starts from random weights of its own on purpose.",
    ))  # fmt: skip


def dino(total_steps: int | None = None, *, start: float = 0.996, end: float = 1.0) -> Spec:
    """DINO (arXiv:2104.14294, facebookresearch/dino): cosine per iteration, never quite 1."""
    return Spec(
        "dino", "cosine", start, end, total_steps, batchnorm="train",
        source="facebookresearch/dino@7c446df:main_dino.py:61,250-251,346-350; utils.py:187-198",
    )  # fmt: skip


def ibot(total_steps: int | None = None, *, start: float = 0.996, end: float = 1.0) -> Spec:
    """iBOT (arXiv:2111.07832, bytedance/ibot): as DINO."""
    source = "bytedance/ibot@da316d8:main_ibot.py:61,317-318,451-455"
    return Spec("ibot", "cosine", start, end, total_steps, batchnorm="train", source=source)


def dinov2(total_steps: int | None = None, *, start: float | None = None, end: float = 1.0) -> Spec:
    """DINOv2 (arXiv:2304.07193, facebookresearch/dinov2): cosine; 0.992 by default, 0.994 in the ViT-L/g recipes."""
    return _published(start, (0.992, 0.994), lambda value: Spec(
        "dinov2", "cosine", value, end, total_steps, batchnorm="eval",
        source="facebookresearch/dinov2@b8931f7:dinov2/train/train.py:237,264; dinov2/train/ssl_meta_arch.py:356-365",
    ))  # fmt: skip


def dinov3(total_steps: int | None = None, *, start: float | None = None, end: float | None = None) -> Spec:
    """DINOv3 (arXiv:2508.10104, facebookresearch/dinov3): cosine from 0.992; constant 0.994 (7B), 0.999 (later stages).

    ``end`` equal to ``start`` asks for a constant.
    """

    def build(value: float, last: float) -> Spec:
        return Spec(
            "dinov3", "constant" if value == last else "cosine", value, last, total_steps, batchnorm="eval",
            source="facebookresearch/dinov3@6876159:dinov3/train/train.py:122-127,531-532;"
            " dinov3/train/ssl_meta_arch.py:713-726; configs/ssl_default_config.yaml:114-115",
        )  # fmt: skip

    if start is not None or end is not None:
        return build(0.992 if start is None else start, 1.0 if end is None else end)
    return replace(build(0.992, 1.0), variants=(build(0.994, 0.994), build(0.999, 0.999)))


def capi(
    total_steps: int | None = None, *, start: float = 1.0, middle: float = 0.999, end: float = 1.0,
    anneal_steps: int = 50_000,
) -> Spec:  # fmt: skip
    """CAPI (arXiv:2502.08769, facebookresearch/capi): line down from 1 to 0.999, then 0.8 of a half cosine back."""
    return Spec(
        "capi", "warm-down-cosine", start, end, total_steps, anneal_steps, middle=middle, cosine_share=0.8,
        on_skipped_step="forbidden", batchnorm="eval",
        source="facebookresearch/capi@98b4fa1:train_capi.py:307-313; default_pretrain_config.yaml:50-55;"
        " utils.py:162-191",
        notes="500,000 steps in the paper, last momentum 0.9999; the clustering head on the target branch is trained.",
    )  # fmt: skip


def moco(total_steps: int | None = None, *, start: float = 0.999) -> Spec:
    """MoCo v1 and v2 (arXiv:1911.05722, facebookresearch/moco): constant, updated inside the forward."""
    return Spec(
        "moco", "constant", start, start, total_steps, orders=frozenset({"B'"}), stochastic_teacher="allowed",
        batchnorm="train",
        source="facebookresearch/moco@5670021:moco/builder.py:45-50,129-135; main_moco.py:87",
    )  # fmt: skip


def moco_v3(total_steps: int | None = None, *, start: float = 0.99, end: float | None = None) -> Spec:
    """MoCo v3 (arXiv:2104.02057, facebookresearch/moco-v3): constant, or cosine to 1 with its --moco-m-cos.

    ``end`` asks for the cosine; without it both pass for published.
    """

    def build(last: float) -> Spec:
        return Spec(
            "moco-v3", "constant" if last == start else "cosine", start, last, total_steps,
            orders=frozenset({"B'"}), stochastic_teacher="allowed", batchnorm="train",
            source="facebookresearch/moco-v3@c349e6e:moco/builder.py:57-61,86-94; main_moco.py:99,344-345,431-434",
        )  # fmt: skip

    return build(end) if end is not None else replace(build(start), variants=(build(1.0),))


def data2vec(
    total_steps: int | None = None, *, start: float = 0.999, end: float = 0.9999, anneal_steps: int | None = None
) -> Spec:
    """Data2vec 1.0 (arXiv:2202.03555, facebookresearch/fairseq): line over 30,000 steps (audio) or 300,000 (text)."""

    def build(steps: int) -> Spec:
        return Spec(
            "data2vec", "linear-then-constant", start, end, total_steps, steps, orders=frozenset({"A", "B"}),
            buffers="any", batchnorm="eval",
            source="facebookresearch/fairseq@3d262bb:examples/data2vec/models/data2vec_audio.py:166-187;"
            " fairseq/tasks/fairseq_task.py:528-529; config/audio/pretraining/base_librispeech.yaml:76-78",
            notes="Order A is that of facebookresearch/data2vec_vision. The first update is skipped.",
        )  # fmt: skip

    return build(anneal_steps) if anneal_steps is not None else replace(build(30_000), variants=(build(300_000),))


def data2vec2(
    total_steps: int | None = None, *, start: float | None = None, end: float | None = None,
    anneal_steps: int | None = None,
) -> Spec:  # fmt: skip
    """Data2vec 2.0 (arXiv:2212.07525, facebookresearch/fairseq): line, then constant; images, audio, text, large."""

    def build(first: float, last: float, steps: int) -> Spec:
        return Spec(
            "data2vec2", "linear-then-constant", first, last, total_steps, steps, orders=frozenset({"B"}),
            on_skipped_step="forbidden", buffers="any", batchnorm="eval", target_normalisation="layer-norm",
            source="facebookresearch/fairseq@3d262bb:examples/data2vec/models/data2vec2.py:332-350;"
            " examples/data2vec/config/v2; fairseq/modules/ema_module.py",
        )  # fmt: skip

    table = ((0.9998, 0.99999, 100_000), (0.9998, 0.99999, 150_000), (0.9998, 1.0, 300_000), (0.999, 0.99999, 75_000),
             (0.9999, 0.99999, 100_000), (0.9997, 1.0, 300_000))  # fmt: skip
    if start is None and end is None and anneal_steps is None:
        first, *others = (build(*row) for row in table)
        return replace(first, variants=tuple(others))
    row = table[0]
    return build(row[0] if start is None else start, row[1] if end is None else end, anneal_steps or row[2])


def mean_teacher(total_steps: int | None = None, *, end: float = 0.999, first_index: int | None = None) -> Spec:
    """Mean teacher (arXiv:1703.01780, CuriousAI/mean-teacher): min(1 - 1/(k + 1), end), k = 1 in the first update.

    Its loop counts the step before it updates, so the first momentum is 0.5; loops derived from it that count
    afterwards start with k = 0, a hard copy.
    """

    def build(index: int) -> Spec:
        return Spec(
            "mean-teacher", "ramp", min(1.0 - 1.0 / (max(0, index) + 1), end), end, total_steps, first_index=index,
            initial="any", stochastic_teacher="allowed", batchnorm="train",
            source="CuriousAI/mean-teacher@546348f:pytorch/main.py:52-67,189-193,288-290; mean_teacher/cli.py:63",
            notes="The teacher starts from random weights of its own and keeps its dropout.",
        )  # fmt: skip

    return build(first_index) if first_index is not None else replace(build(1), variants=(build(0),))


def custom(
    momentum: float, final_momentum: float | None = None, kind: str = "constant", total_steps: int | None = None, *,
    anneal_steps: int | None = None, scale: float = 1.0, orders: Iterable[str] = ORDERS,
    on_skipped_step: str = "forbidden", buffers: str = "any", initial: str = "equal",
    target_normalisation: str | None = None, stochastic_teacher: str = "forbidden", batchnorm: str = "any",
    middle: float | None = None, cosine_share: float = 1.0, first_index: int = 0,
) -> Spec:  # fmt: skip
    """Your own: ``momentum`` in the first update, ``final_momentum`` at the horizon (1 where not said, if it moves)."""
    steady = kind in ("constant", "frozen")
    _check_momentum("momentum", momentum)
    if final_momentum is None:
        final_momentum = momentum if steady else 1.0
    _check_momentum("final_momentum", final_momentum)
    if steady and final_momentum != momentum:
        _refuse("final_momentum", final_momentum, "set kind = 'linear' or 'cosine', or leave it out")
    return Spec(
        "custom", kind, momentum, final_momentum, total_steps, anneal_steps, scale, frozenset(orders),
        on_skipped_step, buffers, initial, target_normalisation, stochastic_teacher, batchnorm,
        middle, cosine_share, first_index, source="declared by the user",
    )  # fmt: skip


def auto(total_steps: int | None = None) -> Spec:
    """Nothing prescribed: what was measured is reported beside the nearest published method."""
    return Spec(
        "auto", "any", 0.0, 1.0, total_steps, orders=frozenset(ORDERS), buffers="any", initial="any",
        stochastic_teacher="allowed", source="nothing was declared",
    )  # fmt: skip


PROFILES: dict[str, Callable[..., Spec]] = {
    "ijepa": ijepa, "vjepa": vjepa, "vjepa2": vjepa2, "byol": byol, "dino": dino, "ibot": ibot, "dinov2": dinov2,
    "dinov3": dinov3, "capi": capi, "moco": moco, "moco-v3": moco_v3, "data2vec": data2vec, "data2vec2": data2vec2,
    "mean-teacher": mean_teacher, "custom": custom, "auto": auto,
}  # fmt: skip


def named(name: str, **arguments: Any) -> Spec:
    """Return the profile called ``name`` on the command line.

    Raises ValueError in one line for an unknown profile, an argument it does not take, or a refused value.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}: did you mean {_close(name, PROFILES)!r}? "
                         f"There are {', '.join(PROFILES)}")  # fmt: skip
    taken = inspect.signature(PROFILES[name]).parameters
    for key in arguments:
        if key not in taken:
            raise ValueError(f"profile {name!r} takes no {key!r}: did you mean {_close(key, taken)!r}? "
                             f"It takes {', '.join(taken)}")  # fmt: skip
    for key, parameter in taken.items():
        if parameter.default is parameter.empty and arguments.get(key) is None:
            raise ValueError(f"profile {name!r} needs {key!r}: give the teacher's share, for example 0.99")
    return PROFILES[name](**arguments)


def from_toml(path: str | PathLike[str]) -> Spec:
    """Return the specification in a TOML file: a ``[spec]`` table or top-level keys, ``base`` names a profile.

    Keys are arguments of that profile (without ``base``: of ``custom``) and fields of ``Spec``;
    ``target_normalisation = "none"`` lifts what the base prescribes. Raises ValueError in one line that names
    file, key, value and remedy, OSError when the file cannot be read.
    """
    try:
        return _from_table(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{Path(path)}: {error}") from None


def _from_table(document: Mapping[str, Any]) -> Spec:
    table = document.get("spec", document)
    if not isinstance(table, dict):
        _refuse("spec", table, "write a [spec] table, or its keys at the top level")
    if table is not document:
        for key, value in document.items():
            if not isinstance(value, dict):
                _refuse(key, value, "move it below the line [spec]")
    given = {key: value for key, value in table.items() if key != "base"}
    base = table.get("base", "custom")
    if not isinstance(base, str):
        _refuse("base", base, f"name a profile: {', '.join(PROFILES)}")
    spec_keys = [field.name for field in fields(Spec) if field.name != "variants"]
    taken = list(inspect.signature(PROFILES[base]).parameters) if base in PROFILES else []
    known = dict.fromkeys(["base", *taken, *spec_keys])
    for key, value in given.items():
        if key not in known:
            _refuse(key, value, f"no such key, did you mean {_close(key, known)!r}? There are {', '.join(known)}")
        if key in ("name", "source", "notes") and not isinstance(value, str):
            _refuse(key, value, "write text in quotes")
        if key == "orders":
            names = [value] if isinstance(value, str) else value
            if not isinstance(names, list) or not all(isinstance(order, str) for order in names):
                _refuse(key, value, f"name one or more of {', '.join(ORDERS)}")
            given[key] = frozenset(names)
        if key == "target_normalisation" and value == "none":
            given[key] = None
    if base == "custom":
        for field, argument in (("start", "momentum"), ("end", "final_momentum")):
            if field in given:
                given.setdefault(argument, given.pop(field))
    spec = named(base, **{key: value for key, value in given.items() if key in taken})
    changes = {key: value for key, value in given.items() if key not in taken}
    if changes:
        kept = () if changes.keys() & {"kind", "start", "end"} else spec.variants
        spec = replace(spec, variants=tuple(replace(variant, **changes) for variant in kept), **changes)
    return spec


@dataclass(frozen=True)
class Match:
    """How near a published method is: ``distance`` 0 is equal, 0.7 a factor of two in the student's share."""

    spec: Spec
    distance: float
    says: str


def nearest(
    measured: Sequence[float], steps: Sequence[int], *, order: str | None, total_steps: int | None
) -> list[Match]:
    """Rank the published profiles by their distance from a measured series, nearest first; [] for an empty one.

    The distance is the root mean square of the difference in log(1 - m), plus 0.5 for an order that the method does
    not use, plus 0.05 for another kind. A window of 20 updates is short: several methods often share the first place,
    which the order of ``PROFILES`` then decides. Where the horizon is not known, the start is compared.
    """
    pairs = _finite(measured, steps)
    if not pairs:
        return []
    values, places = [value for value, _ in pairs], [step for _, step in pairs]
    kind, first, last = kind_of(values, [], places), _show(values[0]), _show(values[-1])
    saw = f"{kind or 'momentum'} " + (first if first == last else f"from {first} to {last}")
    matches = []
    for name, profile in PROFILES.items():
        if name in ("custom", "auto"):
            continue
        try:
            spec = profile(total_steps)
        except ValueError:  # this method cannot be run for so many steps
            spec = profile()
        spec = spec.closest(values, places)
        distance, words = _distance(pairs, spec, kind), f"{saw}; {name} prescribes {spec.summary}"
        if spec.momentum(places[-1]) is None:
            words += " (compared with its start, the horizon is not known)"
        if order is None:
            words += "; order not seen"
        elif order in spec.orders:
            words += f"; order {order} as prescribed"
        else:
            words += f"; order {order} instead of {' or '.join(sorted(spec.orders))}"
            distance += 0.5
        matches.append(Match(spec, distance, words))
    return sorted(matches, key=lambda match: match.distance)


_Pair = tuple[float, int]  # momentum, update number


def _finite(measured: Sequence[float], steps: Sequence[int]) -> list[_Pair]:
    return [(value, step) for value, step in zip(measured, steps, strict=False)
            if _is_number(value) and math.isfinite(value) and _is_whole(step)]  # fmt: skip


def _distance(pairs: Sequence[_Pair], spec: Spec, kind: str | None) -> float:
    known = [spec.momentum(step) for _, step in pairs]
    expected = [spec.start if value is None else value for value in known]
    squares = [_apart(value, target) ** 2 for (value, _), target in zip(pairs, expected, strict=True)]
    shown: str | None = None
    if kind is not None and None not in known:
        shown = kind_of(expected, [], [step for _, step in pairs])
    elif spec.kind == "linear" or (spec.kind == "cosine" and kind != "constant"):  # a cosine is flat at its start
        shown = spec.kind
    other = kind is not None and shown is not None and kind != shown
    return math.sqrt(sum(squares) / max(1, len(squares))) + (0.05 if other else 0.0)


def kind_of(measured: Sequence[float], errors: Sequence[float], steps: Sequence[int] = ()) -> str | None:
    """Return constant, linear, cosine or per-epoch, None when these values do not tell.

    ``errors`` are standard errors (empty: only the rounding of float32, which is the least assumed in any case),
    ``steps`` the update numbers, by default 0, 1, 2, ... Fits by least squares a constant, a line, a half cosine
    that begins at update 0 (line and cosine with a free horizon, after which they stay) and stairs. One that fits is
    named if it is clearly better than the others that fit; constant needs only that none is clearly better than it,
    so it means "no change is visible". A window far from update 0 cannot tell a line from a cosine: None.
    """
    given = list(errors) or [0.0] * len(measured)
    places = list(steps) or list(range(len(measured)))
    rows = [(float(x), y, max(e, _FLOOR)) for x, y, e in zip(places, measured, given, strict=False)
            if math.isfinite(y) and math.isfinite(e)]  # fmt: skip
    if len(rows) < 4:
        return None
    span = max(rows[-1][0] - rows[0][0], 1.0)
    reach = max(rows[-1][0], 1.0)
    horizons = [reach * 0.3 * 1.15**power for power in range(60)]
    bends = [x for x, _, _ in rows[2:-1]]
    flat = _misfit(rows)
    fits = {  # misfit (chi squared), number of parameters
        "constant": (flat, 1),
        "linear": min(
            (_misfit(rows, lambda x: x), 2),
            (_best_horizon(bends, lambda end: _misfit(rows, lambda x: min(x, end))), 3),
            key=lambda fit: fit[0] + fit[1] * math.log(len(rows)),
        ),
        "cosine": (
            _best_horizon(horizons, lambda end: _misfit(rows, lambda x: 1.0 - math.cos(math.pi * min(1.0, x / end)))),
            3,
        ),
        "per-epoch": _stairs(rows),
    }
    scores = {kind: misfit + count * math.log(len(rows)) for kind, (misfit, count) in fits.items()
              if _fits(misfit, len(rows) - count)}  # fmt: skip
    if not scores:  # the curve of a cosine that began elsewhere
        halves = [span * 1.15**power for power in range(50)]
        free = _best_horizon(halves, lambda end: _misfit(
            rows, lambda x: math.sin(math.pi * (x - rows[0][0]) / end),
            lambda x: 1.0 - math.cos(math.pi * (x - rows[0][0]) / end)))  # fmt: skip
        return "cosine" if _fits(free, len(rows) - 4) else None
    clearly = 12.0
    best = min(scores, key=lambda kind: scores[kind])
    if "constant" in scores and scores["constant"] < scores[best] + clearly:
        return "constant"
    rivals = [score for kind, score in scores.items() if kind not in (best, "constant")]
    return best if all(score >= scores[best] + clearly for score in rivals) else None


_Row = tuple[float, float, float]  # update number, value, standard error


def _misfit(rows: Sequence[_Row], *shapes: Callable[[float], float]) -> float:
    """Return chi squared of the best constant plus multiples of ``shapes``."""
    weights = [1.0 / error for _, _, error in rows]
    rest = [(value - rows[0][1]) * weight for (_, value, _), weight in zip(rows, weights, strict=True)]
    basis: list[list[float]] = []
    for shape in (lambda _: 1.0, *shapes):
        column = [shape(x) * weight for (x, _, _), weight in zip(rows, weights, strict=True)]
        length = math.hypot(*column)
        for _ in range(2):  # twice: the columns are nearly parallel
            for unit in basis:
                column = _remove(column, unit)
        if math.hypot(*column) > 1e-9 * length:
            basis.append([entry / math.hypot(*column) for entry in column])
            rest = _remove(rest, basis[-1])
    return sum(entry * entry for entry in rest)


def _remove(vector: list[float], unit: list[float]) -> list[float]:
    along = sum(a * b for a, b in zip(vector, unit, strict=True))
    return [a - along * b for a, b in zip(vector, unit, strict=True)]


def _best_horizon(grid: Sequence[float], misfit: Callable[[float], float]) -> float:
    """Return the least misfit over the horizon: the best of the grid, then a golden section beside it."""
    if not grid:
        return math.inf
    at = min(range(len(grid)), key=lambda i: misfit(grid[i]))
    low, high = grid[max(0, at - 1)], grid[min(len(grid) - 1, at + 1)]
    golden, found = (math.sqrt(5.0) - 1.0) / 2.0, misfit(grid[at])
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        at_left, at_right = misfit(left), misfit(right)
        found = min(found, at_left, at_right)
        low, high = (low, right) if at_left < at_right else (left, high)
    return found


def _stairs(rows: Sequence[_Row]) -> tuple[float, int]:
    """Return misfit and parameters of steps: jumps beyond 5 errors, flat between, inner lengths equal."""
    jumps = [i for i in range(1, len(rows))
             if abs(rows[i][1] - rows[i - 1][1]) > 5.0 * math.hypot(rows[i][2], rows[i - 1][2])]  # fmt: skip
    treads = list(itertools.pairwise([0, *jumps, len(rows)]))
    lengths = [b - a for a, b in treads]
    inner = lengths[1:-1]
    regular = len(set(inner)) == 1 and inner[0] >= max(2, lengths[0], lengths[-1]) if inner else min(lengths) >= 2
    if not jumps or not regular:
        return math.inf, 1
    return sum(_misfit(rows[a:b]) for a, b in treads), 2 * len(treads) - 1


def _fits(misfit: float, freedom: int) -> bool:
    return freedom > 0 and misfit <= freedom + 6.0 * math.sqrt(2.0 * freedom)


def _apart(a: float, b: float) -> float:
    return abs(math.log(max(1.0 - a, _SHARE_FLOOR)) - math.log(max(1.0 - b, _SHARE_FLOOR)))


def _line(start: float, end: float, done: float) -> float:
    return end if done >= 1.0 else start + (end - start) * done


def _half_cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * done))


def _published(chosen: float | None, starts: Sequence[float], build: Callable[[float], Spec]) -> Spec:
    if chosen is not None:
        return build(chosen)
    first, *others = (build(start) for start in starts)
    return replace(first, variants=tuple(others))


def _show(momentum: float) -> str:
    share = abs(1.0 - momentum)
    digits = 3 if share < 1e-12 else min(12, max(3, 1 - math.floor(math.log10(share))))
    return f"{momentum:.{digits}f}"


def _close(word: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)[0]


def _check_momentum(key: str, value: object) -> None:
    if not (isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0):
        _refuse(key, value, "momentum is the teacher's share, give a number in [0, 1] such as 0.996")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse(key: str, value: object, remedy: str) -> None:
    raise ValueError(f"{key} = {value!r}: {remedy}")
