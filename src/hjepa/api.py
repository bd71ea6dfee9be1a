"""The Python API: one function per command."""

from hjepa.commands.check import Check, check
from hjepa.commands.doctor import doctor
from hjepa.commands.evaluate import Evaluation, evaluate, load_encoder
from hjepa.commands.masks import mask_statistics
from hjepa.commands.plan import plan
from hjepa.commands.pretrain import pretrain
from hjepa.runs.callback import TrainingCallback
from hjepa.runs.run import Run

__all__ = [
    "Check",
    "Evaluation",
    "Run",
    "TrainingCallback",
    "check",
    "doctor",
    "evaluate",
    "load_encoder",
    "mask_statistics",
    "plan",
    "pretrain",
]
