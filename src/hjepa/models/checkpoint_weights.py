"""Load weights by name, strictly: into an encoder, and into a predictor where it fits."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hjepa.errors import UserError
from hjepa.models.encoder import ContextEncoder
from hjepa.models.hjepa import HJEPA
from hjepa.models.vit_names import with_channels

# ViT-Ti and S (Touvron et al. 2021, table 1); B, L and H (Dosovitskiy et al. 2021, table 1).
USUAL_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}


class Matched(NamedTuple):
    """How many tensors of a part were loaded."""

    part: str
    tensors: int
    total: int = 0  # of the part; 0: all of them were loaded
    remark: str = ""  # which were not

    def __str__(self) -> str:
        return f"{self.part}: {self.tensors} of {self.total or self.tensors} tensors matched{self.remark}"


def load_encoder(model: HJEPA, state: Mapping[str, Tensor], heads: int | None = None) -> Matched:
    """Load a ViT under timm's names into context and target encoder; the predictor keeps its random init.

    Every weight of the encoder must be there in its shape, or nothing is changed (UserError with the settings that
    fit). Exceptions: patch embeddings are adapted to the number of channels, positions stay our fixed ones, and a
    network that normalises after pooling has no final norm. ``heads`` is the number in the checkpoint; tensors do not
    tell it, so if it is unknown and not the usual one for this width the remark says which number was used.
    """
    encoder = model.context_encoder
    own = encoder.vit.state_dict()
    patches = "patch_embed.proj.weight"
    _refuse_what_is_no_plain_vit(state, own)
    state = {**state, patches: with_channels(state[patches], own[patches].shape[1])}
    positions = state.pop("pos_embed", None)
    fits = {name for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}
    missing = [name for name in own if name not in fits and name not in ("pos_embed", "norm.weight", "norm.bias")]
    foreign = [name for name in state if name not in own]
    settings = _other_sizes(encoder, state, heads)
    if missing or settings:
        wrong = f"; {missing[0]} does not fit" if missing else ""
        remedy = f"set {settings}" if settings else "use a plain ViT of the same architecture"
        raise UserError(f"encoder: {len(fits)} of {len(own)} tensors matched{wrong}; {remedy}")
    encoder.vit.load_state_dict({name: state[name] for name in fits}, strict=False)
    model.target_encoder.copy_from_context_encoder(encoder)
    same = _same_positions(positions, own["pos_embed"])
    kept = "" if same else "; positions stay fixed sine-cosine, pos_embed is not loaded"
    unset = [name for name in ("norm.weight", "norm.bias") if name not in fits]
    kept += f"; {_a_few(unset)} stay as initialised" if unset else ""
    kept += f"; not used: {_a_few(foreign)}" if foreign else ""
    kept += _unknown_heads(encoder) if heads is None else ""
    return Matched("encoder", len(fits) + same, len(own), kept)


def load_predictor(model: HJEPA, state: Mapping[str, Tensor]) -> Matched:
    """Load a predictor if it fits; otherwise the predictor keeps its random init, and the remark says what differs.

    Its positions are fixed, and computed for the grid of this model.
    """
    own = model.predictor.state_dict()
    fixed = {name for name in own if "pos_embed" in name}
    wrong = next(
        (name for name in {**own, **state} if name not in fixed and not _is_alike(own.get(name), state.get(name))), None
    )
    if wrong is not None:
        return Matched("predictor", 0, len(own), f"; it starts anew, since {wrong} differs")
    model.predictor.load_state_dict({**own, **{name: state[name] for name in own if name not in fixed}})
    return Matched("predictor", len(own))


def _is_alike(own: Tensor | None, given: Tensor | None) -> bool:
    return own is not None and given is not None and own.shape == given.shape


def _refuse_what_is_no_plain_vit(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise UserError for weights that are no numbers, and for blocks that compute something else than ours."""
    if not any(name.startswith("blocks.0.") for name in state):
        raise UserError("contains no plain vision transformer (patches, but no blocks.0): use a ViT, such as timm's")
    if broken := next((name for name, tensor in state.items() if not tensor.isfinite().all()), None):
        raise UserError(f"{broken} contains NaN or infinite values: the training that it comes from has diverged")
    kinds = {re.sub(r"\.\d+\.", ".0.", name) for name in own}
    other = next((n for n in state if n.startswith("blocks.") and re.sub(r"\.\d+\.", ".0.", n) not in kinds), None)
    if other is not None:
        raise UserError(f"encoder: {other} does not exist in this encoder; use a plain ViT of the same architecture")


def _same_positions(given: Tensor | None, own: Tensor) -> bool:
    if given is None or given.shape != own.shape:
        return False
    rounding = 1e-4 if given.dtype.itemsize > 2 else 1e-2
    return torch.allclose(given.to(own), own, atol=rounding)


def _unknown_heads(encoder: ContextEncoder) -> str:
    """Return a remark where the number of heads is not the usual one for this width."""
    width, used = encoder.vit.embed_dim, encoder.architecture["num_heads"]
    usual = USUAL_HEADS.get(width, used)
    if usual == used:
        return ""
    return f"; its number of heads is not stated: {used} were used, {usual} are usual for width {width} (--model.heads)"


def _a_few(names: Iterable[str]) -> str:
    """Return at most three names."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _other_sizes(encoder: ContextEncoder, state: Mapping[str, Tensor], heads: int | None) -> str:
    """Return the settings with which the model would have the sizes of a checkpoint; empty if it has them."""
    patches, hidden = state["patch_embed.proj.weight"], state.get("blocks.0.mlp.fc1.weight")
    blocks = {int(found[1]) for name in state if (found := re.match(r"blocks\.(\d+)\.", name))}
    width, own = len(patches), encoder.architecture
    sizes = {
        "width": (width, own["embed_dim"]),
        "depth": (max(blocks, default=-1) + 1, own["depth"]),
        "heads": (heads, own["num_heads"]),
        "patch_size": (patches.shape[-1], own["patch_size"]),
        "mlp_ratio": (None if hidden is None else len(hidden) / width, own["mlp_ratio"]),
    }
    wrong = [
        f"--model.{name} {given:g}" for name, (given, ours) in sizes.items() if given is not None and given != ours
    ]
    return " ".join(wrong)


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix ``module.`` that a DDP wrapper adds to every name."""
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def refuse_misfit(part: str, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise UserError unless names and shapes are exactly those of ``module``."""
    own = module.state_dict()
    matched = sum(name in own and own[name].shape == tensor.shape for name, tensor in state.items())
    report = f"({matched} of {len(own)} tensors matched)"
    for name in own:
        if name not in state:
            raise UserError(f"{part}: {name} is missing {report}; use a checkpoint of the same architecture")
        if own[name].shape != state[name].shape:
            raise UserError(
                f"{part}: {name} is {tuple(state[name].shape)}, but this model needs {tuple(own[name].shape)} "
                f"{report}; set model.* to the checkpoint's sizes"
            )
    if extra := sorted(state.keys() - own.keys()):
        raise UserError(f"{part}: {extra[0]} does not exist in this model {report}; set model.depth to match")
