"""Specifications of a teacher: of published methods, by the caller, or from a TOML file."""

from hjepa.audit.specs.published import (
    PROFILES,
    auto,
    byol,
    capi,
    custom,
    data2vec,
    data2vec2,
    dino,
    dinov2,
    dinov3,
    ibot,
    ijepa,
    mean_teacher,
    moco,
    moco_v3,
    named,
    vjepa,
    vjepa2,
)
from hjepa.audit.specs.spec import KINDS, ORDERS, Spec
from hjepa.audit.specs.toml_file import from_toml

__all__ = [
    "KINDS",
    "ORDERS",
    "PROFILES",
    "Spec",
    "auto",
    "byol",
    "capi",
    "custom",
    "data2vec",
    "data2vec2",
    "dino",
    "dinov2",
    "dinov3",
    "from_toml",
    "ibot",
    "ijepa",
    "mean_teacher",
    "moco",
    "moco_v3",
    "named",
    "vjepa",
    "vjepa2",
]
