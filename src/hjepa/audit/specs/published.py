"""Specifications of published methods, and custom ones.

The constants come from the public repositories, at the commits named in each ``source`` (docs/audit.md).
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from hjepa.audit.specs.checks import check_momentum, closest_word, refuse
from hjepa.audit.specs.spec import ORDERS, Spec


def ijepa(total_steps: int | None = None, *, start: float = 0.996, end: float = 1.0, scale: float = 1.0) -> Spec:
    """I-JEPA (arXiv:2301.08243, facebookresearch/ijepa): linear per step; the last value stays below ``end``."""
    return Spec(
        "ijepa", "linear", start, end, total_steps, scale=scale, target_normalisation="layer-norm",
        source="facebookresearch/ijepa@52c1ae9:src/train.py:228-229,322-336; configs/in1k_vith14_ep300.yaml:42-48",
        notes="Only parameters are averaged, even when the scaler skipped the step.",
    )  # fmt: skip


def vjepa(total_steps: int | None = None, *, start: float = 0.998, end: float = 1.0, scale: float = 1.25) -> Spec:
    """V-JEPA (arXiv:2404.08471, facebookresearch/jepa): I-JEPA's line over 1.25 times the run, ending near 0.9996."""
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
        notes="The teacher starts from its own random weights on purpose.",
    ))  # fmt: skip


def dino(total_steps: int | None = None, *, start: float = 0.996, end: float = 1.0) -> Spec:
    """DINO (arXiv:2104.14294, facebookresearch/dino): cosine per iteration, never reaching 1."""
    return Spec(
        "dino", "cosine", start, end, total_steps, batchnorm="train",
        source="facebookresearch/dino@7c446df:main_dino.py:61,250-251,346-350; utils.py:187-198",
    )  # fmt: skip


def ibot(total_steps: int | None = None, *, start: float = 0.996, end: float = 1.0) -> Spec:
    """iBOT (arXiv:2111.07832, bytedance/ibot): same as DINO."""
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

    If ``end`` equals ``start``, the momentum is constant.
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
    """CAPI (arXiv:2502.08769, facebookresearch/capi): linear from 1 to 0.999, then 0.8 of a half cosine back."""
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
    """MoCo v3 (arXiv:2104.02057, facebookresearch/moco-v3): constant, or cosine to 1 with --moco-m-cos.

    With ``end`` the cosine is prescribed; without it both are accepted.
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
    """Data2vec 1.0 (arXiv:2202.03555, facebookresearch/fairseq): linear for 30,000 steps (audio) or 300,000 (text)."""

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
    """Data2vec 2.0 (arXiv:2212.07525, facebookresearch/fairseq): linear, then constant; images, audio, text, large."""

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

    The original loop increments the step before the update, so the first momentum is 0.5; derived loops that
    increment it afterwards start with k = 0, a hard copy.
    """

    def build(index: int) -> Spec:
        return Spec(
            "mean-teacher", "ramp", min(1.0 - 1.0 / (max(0, index) + 1), end), end, total_steps, first_index=index,
            initial="any", stochastic_teacher="allowed", batchnorm="train",
            source="CuriousAI/mean-teacher@546348f:pytorch/main.py:52-67,189-193,288-290; mean_teacher/cli.py:63",
            notes="The teacher starts from its own random weights and keeps its dropout.",
        )  # fmt: skip

    return build(first_index) if first_index is not None else replace(build(1), variants=(build(0),))


def custom(
    momentum: float, final_momentum: float | None = None, kind: str = "constant", total_steps: int | None = None, *,
    anneal_steps: int | None = None, scale: float = 1.0, orders: Iterable[str] = ORDERS,
    on_skipped_step: str = "forbidden", buffers: str = "any", initial: str = "equal",
    target_normalisation: str | None = None, stochastic_teacher: str = "forbidden", batchnorm: str = "any",
    middle: float | None = None, cosine_share: float = 1.0, first_index: int = 0,
) -> Spec:  # fmt: skip
    """Return a custom specification: ``momentum`` at the first update, ``final_momentum`` at the end (default 1)."""
    steady = kind in ("constant", "frozen")
    check_momentum("momentum", momentum)
    if final_momentum is None:
        final_momentum = momentum if steady else 1.0
    check_momentum("final_momentum", final_momentum)
    if steady and final_momentum != momentum:
        refuse("final_momentum", final_momentum, "set kind = 'linear' or 'cosine', or leave it out")
    return Spec(
        "custom", kind, momentum, final_momentum, total_steps, anneal_steps, scale, frozenset(orders),
        on_skipped_step, buffers, initial, target_normalisation, stochastic_teacher, batchnorm,
        middle, cosine_share, first_index, source="declared by the user",
    )  # fmt: skip


def auto(total_steps: int | None = None) -> Spec:
    """Prescribe no momentum: the measured one is reported with the closest published methods."""
    return Spec(
        "auto", "any", 0.0, 1.0, total_steps, orders=frozenset(ORDERS), buffers="any", initial="any",
        stochastic_teacher="allowed", source="no specification was given",
    )  # fmt: skip


PROFILES: dict[str, Callable[..., Spec]] = {
    "ijepa": ijepa, "vjepa": vjepa, "vjepa2": vjepa2, "byol": byol, "dino": dino, "ibot": ibot, "dinov2": dinov2,
    "dinov3": dinov3, "capi": capi, "moco": moco, "moco-v3": moco_v3, "data2vec": data2vec, "data2vec2": data2vec2,
    "mean-teacher": mean_teacher, "custom": custom, "auto": auto,
}  # fmt: skip


def named(name: str, **arguments: Any) -> Spec:
    """Return the profile with this name on the command line.

    Raises ValueError in one line for an unknown profile, an unknown argument, or an invalid value.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}: did you mean {closest_word(name, PROFILES)!r}? "
                         f"Profiles: {', '.join(PROFILES)}")  # fmt: skip
    taken = inspect.signature(PROFILES[name]).parameters
    for key in arguments:
        if key not in taken:
            raise ValueError(f"profile {name!r} has no argument {key!r}: did you mean {closest_word(key, taken)!r}? "
                             f"Its arguments: {', '.join(taken)}")  # fmt: skip
    for key, parameter in taken.items():
        if parameter.default is parameter.empty and arguments.get(key) is None:
            raise ValueError(f"profile {name!r} needs {key!r}: give the teacher's coefficient, for example 0.99")
    return PROFILES[name](**arguments)


def _published(chosen: float | None, starts: Sequence[float], build: Callable[[float], Spec]) -> Spec:
    if chosen is not None:
        return build(chosen)
    first, *others = (build(start) for start in starts)
    return replace(first, variants=tuple(others))
