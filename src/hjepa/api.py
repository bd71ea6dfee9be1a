"""The Python API: one function per command."""

from hjepa.commands.doctor import doctor
from hjepa.commands.embed import embed
from hjepa.commands.evaluate import Evaluation, evaluate, load_encoder
from hjepa.commands.masks import mask_statistics
from hjepa.commands.plan import plan
from hjepa.commands.pretrain import pretrain
from hjepa.commands.search import Search, search
from hjepa.deploy.embeddings import Embeddings, open_embeddings
from hjepa.runs.callback import TrainingCallback
from hjepa.runs.run import Run

__all__ = [
    "Embeddings",
    "Evaluation",
    "Run",
    "Search",
    "TrainingCallback",
    "doctor",
    "embed",
    "evaluate",
    "load_encoder",
    "mask_statistics",
    "open_embeddings",
    "plan",
    "pretrain",
    "search",
]
