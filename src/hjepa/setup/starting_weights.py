"""``--init-from``: initialise a new run from existing weights, strictly, and report what matched."""

import argparse
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from hjepa.errors import UserError
from hjepa.files import load_tensors
from hjepa.models.checkpoint_weights import Matched, load_encoder, load_predictor, without_prefix
from hjepa.models.hjepa import HJEPA
from hjepa.models.vit_names import encoder_of, flattened

TARGET, CONTEXT, PREDICTOR = "target_encoder.encoder.vit.", "context_encoder.vit.", "predictor."  # of a run
ACCEPTED = "a run folder, encoder.safetensors, a ViT of timm (.pth, .safetensors, timm:NAME), hf:FOLDER"
# What a folder is searched for: a run, or what Hugging Face saves, in one file or in several with an index.
SINGLE_FILES = ("checkpoints/last/weights.safetensors", "encoder.safetensors", "model.safetensors", "pytorch_model.bin")
HEADS = {  # where configurations state the number of heads
    "config.json": (("num_attention_heads",), ("model_args", "num_heads")),
    "config.yaml": (("model", "heads"),),
}
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def load_starting_weights(model: HJEPA, path: str | os.PathLike[str]) -> list[Matched]:
    """Load weights into a new model from a run folder, a weights file, a Hugging Face folder or ``timm:NAME``.

    The encoder initialises both context and target encoder, so that they start equal; of a run and of a released
    I-JEPA checkpoint it is the target encoder. Those two also provide a predictor, which is used if it has the sizes
    of this model's. Raises UserError on any mismatch of the encoder.
    """
    shown = os.fspath(path)
    try:
        if shown.startswith("timm:"):
            return _load_timm(model, shown.removeprefix("timm:"))
        place = Path(shown.removeprefix("hf:")).expanduser()
        content, heads = _read_folder(place) if place.is_dir() else (_read_file(place, shown), _heads_beside(place))
        return _load(model, content, heads)
    except UserError as error:
        raise UserError(f"--init-from {shown}: {error}") from None


def _load(model: HJEPA, content: Any, heads: int | None) -> list[Matched]:
    """Load what a file holds: a run, a released checkpoint, or anything with an encoder inside."""
    if not isinstance(content, Mapping):
        raise UserError(f"contains no state dict (but a {type(content).__name__}); accepted: {ACCEPTED}")
    if all(any(name.startswith(part) for name in map(str, content)) for part in (TARGET, CONTEXT, PREDICTOR)):
        encoder, predictor = (_below(content, part) for part in (TARGET, PREDICTOR))
        return [load_encoder(model, encoder, heads), load_predictor(model, predictor)]
    last = content.get("predictor")
    found = [part for part in map(content.get, ("target_encoder", "encoder")) if isinstance(part, Mapping)]
    if isinstance(last, Mapping) and found:  # as released: every part of a DDP wrapper
        released = encoder_of(flattened(found[0]))
        if released is not None:
            return [load_encoder(model, released, heads), load_predictor(model, without_prefix(last))]
    state = encoder_of(flattened(content))
    if state is None:
        raise UserError(f"contains no vision transformer (no patch_embed.proj.weight); accepted: {ACCEPTED}")
    return [load_encoder(model, state, heads)]


def _below(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _read_folder(folder: Path) -> tuple[Any, int | None]:
    """Return the weights of a run or of a folder of Hugging Face, and the number of heads where a file there says it.

    Nothing is downloaded.
    """
    heads = _heads(folder)
    for name in SINGLE_FILES:
        if (folder / name).is_file():
            return _read_file(folder / name, name), heads
    for name in INDICES:
        if (folder / name).is_file():
            return _read_shards(folder / name), heads
    raise UserError(f"not a run with a checkpoint, and no model.safetensors in it; accepted: {ACCEPTED}")


def _read_shards(index: Path) -> dict[str, Any]:
    """Return the tensors of all files of an index."""
    try:
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{index.name} is damaged: copy the folder again") from None
    tensors: dict[str, Any] = {}
    for name in files:
        file = index.parent / Path(str(name)).name  # beside the index, wherever it points
        if not file.is_file():
            raise UserError(f"{file.name} is missing, which {index.name} lists: copy the folder again")
        tensors |= _read_file(file, file.name)
    return tensors


def _read_file(file: Path, named: str) -> Any:
    if named.startswith("hf:"):
        raise UserError("no such folder here; download the model first: hf download NAME --local-dir FOLDER")
    if not file.is_file():
        raise UserError(f"does not exist; pass a run folder or a weights file, or one of: {ACCEPTED}")
    return _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)


def _heads_beside(file: Path) -> int | None:
    """Return the number of heads of a weights file by the name that it has in a folder of its own."""
    return _heads(file.parent) if file.name in SINGLE_FILES else None


def _heads(folder: Path) -> int | None:
    """Return the number of heads that a configuration in a folder states: of Hugging Face, of timm, or of a run."""
    for name, places in HEADS.items():
        try:
            value: Any = yaml.safe_load((folder / name).read_text())  # JSON is YAML
        except (OSError, ValueError, yaml.YAMLError):
            continue
        for place in places:
            found = value
            for key in place:
                found = found.get(key) if isinstance(found, Mapping) else None
            if isinstance(found, int):
                return found
    return None


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
        return load_tensors(path)
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
