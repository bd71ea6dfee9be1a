"""From vectors to places on a plane."""

import warnings
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hjepa.errors import UserError

Method = Literal["umap", "pca"]
COMPONENTS = 50  # what UMAP looks at: it is faster than on all dimensions, and the rest is mostly noise
MIN_FOR_UMAP = 16  # images; a neighbourhood graph of fewer says nothing


def choose_method(wanted: str, images: int) -> Method:
    """Return the method: UMAP where it is installed and there are enough images; raises UserError if it is not."""
    installed = find_spec("umap") is not None
    if wanted == "umap" and not installed:
        raise UserError("--method umap needs umap-learn: pip install 'hjepa[map]'")
    if wanted == "umap" and images < MIN_FOR_UMAP:
        raise UserError(f"--method umap: {images} images are too few for a neighbourhood graph; use --method pca")
    if wanted not in ("auto", "umap", "pca"):
        raise UserError(f"--method {wanted}: choose auto, umap or pca")
    return "umap" if wanted == "umap" or (wanted == "auto" and installed and images >= MIN_FOR_UMAP) else "pca"


def places(vectors: np.ndarray, method: Method, *, seed: int = 0) -> np.ndarray:
    """Return places in 0..1, float32 [n, 2], for vectors [n, F] that are compared by their direction."""
    unit = torch.nn.functional.normalize(torch.from_numpy(np.array(vectors, dtype=np.float32)), dim=1)
    found = principal_components(unit, COMPONENTS if method == "umap" else 2)
    plane = _umap(found.numpy(), seed) if method == "umap" else _two_columns(found)
    low, high = plane.min(0), plane.max(0)
    return ((plane - low) / np.maximum(high - low, 1e-9)).astype(np.float32)


def principal_components(vectors: Tensor, count: int) -> Tensor:
    """Return the leading principal components [n, <= count]; the sign of each makes its largest loading positive."""
    centred = (vectors - vectors.mean(0)).double()
    _, axes = torch.linalg.eigh(centred.T @ centred)
    axes = axes.flip(1)[:, :count]
    signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return (centred @ (axes * signs)).float()


def _two_columns(found: Tensor) -> np.ndarray:
    """Return [n, 2], also for vectors of a single dimension."""
    return torch.nn.functional.pad(found, (0, max(0, 2 - found.shape[1]))).numpy()


def _umap(components: np.ndarray, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a library it does without, and that a fixed seed means one thread
        import umap

        reducer = umap.UMAP(n_neighbors=min(15, len(components) - 1), min_dist=0.05, random_state=seed)
        plane: np.ndarray = reducer.fit_transform(components)
    return plane
