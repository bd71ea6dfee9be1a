"""Pretrain image encoders with joint-embedding prediction, and find out whether it worked."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hjepa.version import __version__

if TYPE_CHECKING:
    from hjepa import audit
    from hjepa.api import Run, TrainingCallback, doctor, evaluate, export, load_encoder, mask_statistics, plan, pretrain
    from hjepa.errors import UserError
    from hjepa.report import write_report

__all__ = [
    "Run",
    "TrainingCallback",
    "UserError",
    "__version__",
    "audit",
    "doctor",
    "evaluate",
    "export",
    "load_encoder",
    "mask_statistics",
    "plan",
    "pretrain",
    "write_report",
]

_HOMES = {
    "Run": "hjepa.api",
    "TrainingCallback": "hjepa.api",
    "UserError": "hjepa.errors",
    "doctor": "hjepa.api",
    "evaluate": "hjepa.api",
    "export": "hjepa.api",
    "load_encoder": "hjepa.api",
    "mask_statistics": "hjepa.api",
    "plan": "hjepa.api",
    "pretrain": "hjepa.api",
    "write_report": "hjepa.report",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import hjepa`` costs nothing."""
    if name == "audit":
        return import_module("hjepa.audit")
    if name not in _HOMES:
        raise AttributeError(f"module 'hjepa' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
