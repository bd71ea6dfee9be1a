"""The Python API: one function per command."""

from hjepa.commands.check import Check, check
from hjepa.commands.doctor import doctor
from hjepa.commands.duplicates import Duplicates, duplicates
from hjepa.commands.embed import embed
from hjepa.commands.evaluate import Evaluation, evaluate, load_encoder
from hjepa.commands.export import Exports, export
from hjepa.commands.map import Map, map_images
from hjepa.commands.masks import mask_statistics
from hjepa.commands.plan import plan
from hjepa.commands.pretrain import pretrain
from hjepa.commands.search import Search, search
from hjepa.deploy.embeddings import Embeddings, open_embeddings
from hjepa.runs.callback import TrainingCallback
from hjepa.runs.run import Run

__all__ = [
    "Check",
    "Duplicates",
    "Embeddings",
    "Evaluation",
    "Exports",
    "Map",
    "Run",
    "Search",
    "TrainingCallback",
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
]
