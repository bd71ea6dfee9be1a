"""The command line: parses arguments, calls the commands, prints their results. Nothing is computed here.

One file per command. Heavy modules are imported inside the commands, so that ``hjepa --help`` responds at once.
"""

from hjepa.cli import (
    audit,
    check,
    doctor,
    duplicates,
    embed,
    evaluate,
    export,
    map,
    masks,
    pretrain,
    report,
    search,
    serve,
)
from hjepa.cli.dispatch import main, split_settings
from hjepa.cli.root import app

__all__ = [
    "app",
    "audit",
    "check",
    "doctor",
    "duplicates",
    "embed",
    "evaluate",
    "export",
    "main",
    "map",
    "masks",
    "pretrain",
    "report",
    "search",
    "serve",
    "split_settings",
]
