"""``--init-from``: initialise a new run from existing weights, strictly, and report what matched."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hjepa.errors import UserError
from hjepa.models.checkpoint_weights import Matched, load_released, refuse_misfit
from hjepa.models.hjepa import HJEPA

CHECKPOINT_PARTS = ("context_encoder.", "predictor.", "target_encoder.encoder.")


def load_starting_weights(model: HJEPA, path: Path) -> list[Matched]:
    """Load weights into a new model from a run folder, encoder.safetensors, or a released checkpoint.

    A run provides encoder, predictor and target encoder; a bare encoder initialises both context and target
    encoder and leaves the predictor at random init. Raises UserError on any mismatch.
    """
    if path.is_dir():
        weights = path / "checkpoints" / "last" / "weights.safetensors"
        if not weights.is_file():
            raise UserError(f"--init-from {path}: not a run with a checkpoint; pass a run folder or a weights file")
        state = _read_safetensors(weights)
        refuse_misfit("model", model, state)
        model.load_state_dict(state)
        return [Matched(part.removesuffix("."), _count(state, part)) for part in CHECKPOINT_PARTS]
    if not path.is_file():
        raise UserError(f"--init-from {path}: does not exist; pass a run folder or a weights file")
    if path.suffix == ".safetensors":
        return load_released(model, {"encoder": _read_safetensors(path)})
    try:
        released = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            f"--init-from {path}: neither a safetensors file nor a checkpoint that torch loads with weights_only=True "
            f"({type(error).__name__})"
        ) from None
    return load_released(model, released)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError:
        raise UserError(f"--init-from {path}: damaged, or not a safetensors file") from None


def _count(state: dict[str, Tensor], prefix: str) -> int:
    return sum(name.startswith(prefix) for name in state)
