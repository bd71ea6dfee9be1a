"""How good are frozen features? k-NN, whitened k-NN, linear and low-shot probes, always beside two controls.

The controls are an encoder with random weights, pooled the same way, and the raw pixels. The
encoders and the labelled images are handed in, so nothing here knows of runs or files.
"""

from hjepa.evaluation.features import POOLINGS, Encoder, LabelledImages, Probe, extract, pool, raw_pixels
from hjepa.evaluation.knn import knn
from hjepa.evaluation.linear import linear
from hjepa.evaluation.lowshot import lowshot
from hjepa.evaluation.protocol import PROTOCOLS, Result, bootstrap_interval, conclusion, evaluate, harm, table
from hjepa.evaluation.whitened import whitened_knn

__all__ = [
    "POOLINGS",
    "PROTOCOLS",
    "Encoder",
    "LabelledImages",
    "Probe",
    "Result",
    "bootstrap_interval",
    "conclusion",
    "evaluate",
    "extract",
    "harm",
    "knn",
    "linear",
    "lowshot",
    "pool",
    "raw_pixels",
    "table",
    "whitened_knn",
]
