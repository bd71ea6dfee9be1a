"""Evaluation of frozen features: k-NN, whitened k-NN, linear and few-shot probes, always with two baselines.

The baselines are a random-init encoder, pooled in the same way, and raw pixels. Encoders and labelled
images are passed in, so this package does not depend on runs or files.
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
