"""The Python API: one function per command."""

from hjepa.commands.doctor import doctor
from hjepa.commands.evaluate import Evaluation, evaluate, load_encoder
from hjepa.commands.export import Exports, export
from hjepa.commands.masks import mask_statistics
from hjepa.commands.plan import plan
from hjepa.commands.pretrain import pretrain
from hjepa.runs.callback import TrainingCallback
from hjepa.runs.run import Run

__all__ = [
    "Evaluation",
    "Exports",
    "Run",
    "TrainingCallback",
    "doctor",
    "evaluate",
    "export",
    "load_encoder",
    "mask_statistics",
    "plan",
    "pretrain",
]
