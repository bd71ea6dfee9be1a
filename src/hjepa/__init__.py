"""Pretrain image encoders by predicting representations, and learn whether it worked."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hjepa.api import evaluate, load_encoder, pretrain
    from hjepa.errors import UserError

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "evaluate", "load_encoder", "pretrain"]

_HOMES = {
    "UserError": "hjepa.errors",
    "evaluate": "hjepa.api",
    "load_encoder": "hjepa.api",
    "pretrain": "hjepa.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import hjepa`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hjepa' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
