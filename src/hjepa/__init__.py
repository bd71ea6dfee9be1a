"""Pretrain image encoders with joint-embedding prediction, and find out whether it worked."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hjepa.version import __version__

if TYPE_CHECKING:
    from hjepa import audit
    from hjepa.api import (
        Embeddings,
        Run,
        TrainingCallback,
        check,
        doctor,
        duplicates,
        embed,
        evaluate,
        export,
        load_encoder,
        map_images,
        mask_statistics,
        open_embeddings,
        plan,
        pretrain,
        search,
    )
    from hjepa.errors import UserError
    from hjepa.report import write_report

__all__ = [
    "Embeddings",
    "Run",
    "TrainingCallback",
    "UserError",
    "__version__",
    "audit",
    "check",
    "doctor",
    "duplicates",
    "embed",
    "evaluate",
    "export",
    "load_encoder",
    "map_images",
    "mask_statistics",
    "open_embeddings",
    "plan",
    "pretrain",
    "search",
    "write_report",
]

_HOMES = {"UserError": "hjepa.errors", "write_report": "hjepa.report"}  # all others are in hjepa.api


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import hjepa`` costs nothing."""
    if name == "audit":
        return import_module("hjepa.audit")
    if name not in __all__:
        raise AttributeError(f"module 'hjepa' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "hjepa.api")), name)
