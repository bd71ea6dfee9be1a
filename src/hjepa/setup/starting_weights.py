"""``--init-from``: initialise a new run from existing weights, strictly, and report what matched."""

import argparse
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hjepa.errors import UserError
from hjepa.models.checkpoint_weights import Matched, load_encoder, load_released, refuse_misfit
from hjepa.models.hjepa import HJEPA
from hjepa.models.vit_names import encoder_of, flattened

CHECKPOINT_PARTS = ("context_encoder.", "predictor.", "target_encoder.encoder.")
ACCEPTED = "a run folder, encoder.safetensors, a ViT of timm (.pth, .safetensors, timm:NAME), a Hugging Face folder"


def load_starting_weights(model: HJEPA, path: str | os.PathLike[str]) -> list[Matched]:
    """Load weights into a new model from a run folder, a weights file, a Hugging Face folder or ``timm:NAME``.

    A run or a released I-JEPA checkpoint provides encoder, predictor and target encoder; a bare encoder initialises
    both context and target encoder and leaves the predictor at random init. Raises UserError on any mismatch.
    """
    shown = os.fspath(path)
    try:
        if shown.startswith("timm:"):
            return _load_timm(model, shown.removeprefix("timm:"))
        weights, heads = _weights_file(Path(path))
        content = _read_safetensors(weights) if weights.suffix == ".safetensors" else _read_pickle(weights)
        return _load(model, content, heads)
    except UserError as error:
        raise UserError(f"--init-from {shown}: {error}") from None


def _load(model: HJEPA, content: Any, heads: int | None) -> list[Matched]:
    """Load what a file holds: a run, a released checkpoint, or anything with an encoder inside."""
    if not isinstance(content, Mapping):
        raise UserError(f"contains no state dict (but a {type(content).__name__}); accepted: {ACCEPTED}")
    if all(any(name.startswith(part) for name in map(str, content)) for part in CHECKPOINT_PARTS):
        refuse_misfit("model", model, content)
        model.load_state_dict(content)
        return [Matched(part.removesuffix("."), _count(content, part)) for part in CHECKPOINT_PARTS]
    released = {part: content.get(part) for part in ("encoder", "predictor", "target_encoder")}
    if isinstance(released["encoder"], Mapping) and (released["predictor"] or released["target_encoder"]):
        return load_released(model, {part: state for part, state in released.items() if state})
    state = encoder_of(flattened(content))
    if state is None:
        raise UserError(f"contains no vision transformer (no patch_embed.proj.weight); accepted: {ACCEPTED}")
    return [load_encoder(model, state, heads)]


def _weights_file(path: Path) -> tuple[Path, int | None]:
    """Return the file with the weights and, where a config.json says it, the number of heads."""
    if path.is_file():
        return path, None
    if not path.is_dir():
        raise UserError(f"does not exist; pass a run folder or a weights file, or one of: {ACCEPTED}")
    for name in ("checkpoints/last/weights.safetensors", "encoder.safetensors", "model.safetensors"):
        if (path / name).is_file():
            return path / name, _heads(path / "config.json") if name == "model.safetensors" else None
    raise UserError(f"not a run with a checkpoint, and no model.safetensors in it; accepted: {ACCEPTED}")


def _heads(config: Path) -> int | None:
    try:
        heads = json.loads(config.read_text()).get("num_attention_heads")
    except (OSError, ValueError, AttributeError):
        return None
    return heads if isinstance(heads, int) else None


def _load_timm(model: HJEPA, name: str) -> list[Matched]:
    """Load the pretrained weights of a timm model, downloaded by timm if they are not there."""
    import timm

    try:
        with torch.random.fork_rng(devices=[]):  # building a network consumes random numbers
            network = timm.create_model(name, pretrained=True)
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:80]
        raise UserError(f"timm cannot load it ({reason}); check the name with timm.list_pretrained()") from None
    state = encoder_of(network.state_dict())
    if state is None:
        raise UserError(f"{type(network).__name__} is no vision transformer; use one such as timm:vit_base_patch16_224")
    heads = getattr(getattr(next(iter(getattr(network, "blocks", [])), None), "attn", None), "num_heads", None)
    return [load_encoder(model, state, heads)]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError:
        raise UserError("damaged, or not a safetensors file") from None


def _read_pickle(path: Path) -> Any:
    """Read a file of torch.save without running code from it."""
    try:
        # Many published checkpoints carry the arguments of their script; a Namespace only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(
            "neither a safetensors file nor a checkpoint that torch loads with weights_only=True "
            f"({type(error).__name__}); save its tensors alone with torch.save(model.state_dict(), ...)"
        ) from None


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return sum(name.startswith(prefix) for name in state)
