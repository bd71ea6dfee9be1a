"""An encoder as embedding uses it: of a run, or any network of stock timm, with its own preprocessing and name."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from hjepa.data.augment import ResizeToInput
from hjepa.errors import UserError
from hjepa.evaluation.features import LAST_BLOCKS, POOLINGS, check_known, pool
from hjepa.evaluation.levels import views_of
from hjepa.files import load_tensors
from hjepa.models.checkpoint_weights import refuse_misfit
from hjepa.models.frozen import FrozenEncoder, load_frozen

Network = Literal["target", "context"]
PATCHES = "patches"  # no pooling: one vector per patch, or per cell of a level
OWN = "own"  # as a timm model pools its features itself


class Tokens(NamedTuple):
    """The features of a batch at one level."""

    blocks: list[Tensor]  # [B, N, D] after each of the last blocks that were asked for, oldest first
    grid: tuple[int, int]


class EncoderForward(Protocol):
    """What is asked of a network."""

    def tokens(self, images: Tensor, level: str, last: int) -> dict[str, Tokens]:
        """Return the tokens of a level, or of ``all`` levels, by name; raises UserError for an unknown level."""
        ...


@dataclass(frozen=True)
class OpenedEncoder:
    """A network with all that is needed to turn images into vectors, and with the digest of all that matters."""

    name: str  # as the user named it
    forward: EncoderForward
    prepare: Callable[[np.ndarray], Tensor]  # an image [H, W, C] -> [C, H, W] as ``forward`` takes it
    channels: int
    preprocess: Mapping[str, Any]
    fingerprint: str

    @property
    def pages(self) -> Literal["first", "all"]:
        """Return which pages of a file are images: as in training."""
        return "all" if self.preprocess.get("pages") == "all" else "first"

    def choose_pooling(self, pooling: str | None) -> str:
        """Return the pooling to use, by default the encoder's own; raises UserError for an unknown one."""
        own = (OWN,) if isinstance(self.forward, TimmForward) else ()
        known = (*own, *POOLINGS, PATCHES)
        check_known("pooling", [pooling or known[0]], known)
        return pooling or known[0]

    @torch.no_grad()
    def vectors(self, images: Tensor, *, pooling: str, level: str) -> dict[str, Tensor]:
        """Return the features of each level, by its name: [B, F] pooled, or [B, GH, GW, D] for ``patches``."""
        if pooling == OWN and isinstance(self.forward, TimmForward):
            return self.forward.pooled(images, level)
        found = self.forward.tokens(images, level, LAST_BLOCKS if pooling == "last4" else 1)
        if pooling == PATCHES:
            return {name: each.blocks[-1].unflatten(1, each.grid) for name, each in found.items()}
        return {name: pool(each.blocks, each.grid, pooling) for name, each in found.items()}


class RunForward:
    """The encoder of a run."""

    def __init__(self, encoder: FrozenEncoder) -> None:
        self.encoder = encoder

    def tokens(self, images: Tensor, level: str, last: int) -> dict[str, Tokens]:
        """Return the tokens of the last block, or the cells of levels; ``all`` is one pass for all levels."""
        if level != "all" or last > 1:
            view = views_of(self.encoder, level)[0]  # which also refuses what cannot be had
            return {level: Tokens(view.block_tokens(images, last), view.grid(images))}
        views = views_of(self.encoder, "all")
        cells = self.encoder.levels(images)
        found = {
            str(n): Tokens([each.flatten(1, 2)], view.grid(images))
            for n, (each, view) in enumerate(zip(cells, views, strict=False))
        }
        if len(views) > len(cells):
            found["last"] = Tokens(self.encoder.block_tokens(images, 1), self.encoder.grid(images))
        return found


class TimmForward:
    """Any network of timm that returns its intermediate features."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model.requires_grad_(False).eval()

    def tokens(self, images: Tensor, level: str, last: int) -> dict[str, Tokens]:
        """Return the features of the last blocks without class token or registers, as tokens."""
        _refuse_levels(level)
        maps = self.model.forward_intermediates(images, indices=last, norm=True, intermediates_only=True)
        return {"last": Tokens([each.flatten(2).transpose(1, 2) for each in maps], tuple(maps[-1].shape[-2:]))}

    def pooled(self, images: Tensor, level: str) -> dict[str, Tensor]:
        """Return what the model returns without its classifier, [B, F]."""
        _refuse_levels(level)
        return {"last": self.model(images)}


def _refuse_levels(level: str) -> None:
    if level != "last":
        raise UserError(f"--level {level}: a timm model was not trained on levels; use --level last")


def open_encoder(run: str | os.PathLike[str], device: torch.device, *, network: Network = "target") -> OpenedEncoder:
    """Open RUN: the folder of a run, a folder of timm (config.json, model.safetensors), local-dir:FOLDER or timm:NAME.

    Only ``timm:NAME`` may open a network connection. Raises UserError in one line.
    """
    name = os.fspath(run)
    folder = Path(name).expanduser()
    if name.startswith(("timm:", "local-dir:")):
        return _open_timm(name, name.removeprefix("timm:"), device)
    if not folder.is_dir():
        raise UserError(f"RUN {name}: not a folder; pass the folder of a run, a folder of timm, or timm:NAME")
    if (folder / "config.json").is_file() and not (folder / "encoder.json").is_file():
        return _open_timm(name, f"local-dir:{folder}", device)
    encoder = load_frozen(folder)
    if network == "context":
        _load_context_encoder(encoder, folder)
    preprocess = dict(encoder.card["preprocess"])
    size, channels = tuple(preprocess["image_size"]), len(preprocess["mean"])
    prepare = ResizeToInput(size, channels, preprocess["fit"], encoder.value_range)
    facts = {name: encoder.card.get(name) for name in ("timm", "preprocess", "levels", "pixel_targets")}
    fingerprint = model_fingerprint(encoder.encoder.vit.state_dict(), facts)
    return OpenedEncoder(name, RunForward(encoder.to(device)), prepare, channels, preprocess, fingerprint)


def model_fingerprint(weights: Mapping[str, Tensor], facts: Any) -> str:
    """Return a digest of all weights and of what else decides on the features: preprocessing, sizes, levels."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _load_context_encoder(encoder: FrozenEncoder, folder: Path) -> None:
    """Replace the weights by those of the context encoder in the last checkpoint."""
    file = folder / "checkpoints" / "last" / "weights.safetensors"
    try:
        state = load_tensors(file)
    except (OSError, SafetensorError):
        raise UserError(f"{file} cannot be read: the context encoder is only in a run's last checkpoint") from None
    prefix = "context_encoder.vit."
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    refuse_misfit("context encoder", encoder.encoder.vit, state)
    encoder.encoder.vit.load_state_dict(state)


def _open_timm(name: str, model_name: str, device: torch.device) -> OpenedEncoder:
    import timm
    from timm.data import resolve_data_config

    try:
        with torch.random.fork_rng(devices=[]):  # building a network consumes random numbers
            model = timm.create_model(model_name, pretrained=True, num_classes=0)
    except Exception as error:  # noqa: BLE001  (timm and the hub raise exceptions of many kinds)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:100]
        raise UserError(f"RUN {name}: timm cannot load it ({reason}); check the name and the folder") from None
    if not hasattr(model, "forward_intermediates"):
        raise UserError(f"RUN {name}: {type(model).__name__} does not return its features; use another timm model")
    config = {key: list(v) if isinstance(v, tuple) else v for key, v in resolve_data_config({}, model=model).items()}
    prepare = TimmTransform(config)
    fingerprint = model_fingerprint(model.state_dict(), [type(model).__name__, config])
    return OpenedEncoder(name, TimmForward(model.to(device)), prepare, prepare.channels, config, fingerprint)


class TimmTransform:
    """A timm model's own evaluation transform, on arrays."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        from timm.data import create_transform

        self.channels = int(config["input_size"][0])
        if self.channels not in (1, 3, 4):
            raise UserError(
                f"RUN: a timm model of {self.channels} channels; timm's transform takes 1, 3 or 4, pass the run itself"
            )
        self.transform = create_transform(**{**config, "input_size": tuple(config["input_size"])})

    def __call__(self, image: np.ndarray) -> Tensor:
        """Return [C, H, W], normalised, for uint8 [H', W', C']; raises UserError for more than 8 bits."""
        from PIL import Image

        from hjepa.data.decode import to_channels

        if image.dtype != np.uint8:
            raise UserError(f"the image has more than 8 bits ({image.dtype}), which timm's transform does not take")
        pixels = to_channels(image, self.channels)
        return self.transform(Image.fromarray(pixels[..., 0] if self.channels == 1 else pixels))
