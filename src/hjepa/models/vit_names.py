"""State dicts of other libraries, brought to the names of timm's VisionTransformer."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# Where the patch embedding is called so, the rest of the names follow; what stands before it is the encoder's prefix.
TIMM_PATCHES, HUGGING_FACE_PATCHES = "patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"

# Hugging Face's ViT and I-JEPA: the names in their files, and those of version 5 in memory.
HUGGING_FACE = [
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),  # of DINOv2
]


def flattened(value: Any, prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors of nested dictionaries by dotted names: ``{"model": {"x": t}}`` is ``{"model.x": t}``."""
    if isinstance(value, Tensor):
        return {prefix.removesuffix("."): value}
    if not isinstance(value, Mapping):
        return {}
    return {k: t for name, item in value.items() for k, t in flattened(item, f"{prefix}{name}.").items()}


def encoder_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the encoder among named tensors under timm's names; None if there is no vision transformer.

    Any prefix is removed (``module.``, ``backbone.``, ``encoder.`` and so on). Of a teacher and its student, the
    teacher is taken: it is the network that the published features come from.
    """
    found = []
    for patches in (TIMM_PATCHES, HUGGING_FACE_PATCHES):
        for name in tensors:
            if name == patches or name.endswith(f".{patches}"):
                found.append((_preference(name), name.removesuffix(patches)))
    if not found:
        return None
    prefix = min(found)[1]
    state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    # DINOv2 trains its blocks in chunks, blocks.CHUNK.BLOCK; the numbers of blocks are those of the whole network.
    state = {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name): t for name, t in state.items()}
    return with_folded_scales(from_hugging_face(state) if TIMM_PATCHES not in state else state)


def _preference(name: str) -> tuple[int, int]:
    """Return a key that sorts teachers first, students last, and otherwise the least nested name first."""
    words = set(re.split(r"[._]", name))
    rank = 0 if words & {"teacher", "target", "ema"} else 2 if words & {"student", "momentum"} else 1
    return rank, name.count(".")


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of Hugging Face's ViT or I-JEPA under timm's names; queries, keys and values are joined."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, ours in HUGGING_FACE:
            name = re.sub(pattern, ours, name)
        renamed[name] = tensor
    for name in [n for n in renamed if ".attn.query." in n]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in renamed for part in parts):
            renamed[name.replace(".query.", ".qkv.")] = torch.cat([renamed.pop(part) for part in parts])
    return renamed


# Names in the files of Hugging Face's I-JEPA, which all its versions read.
IN_THEIR_FILES = [
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
    (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
]


def to_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict under timm's names as Hugging Face's I-JEPA has it in files: the inverse of the above."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        parts = {name: tensor}
        if ".attn.qkv." in name:
            split = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            parts = {name.replace(".qkv.", f".{part}."): each for part, each in split}
        for ours, each in parts.items():
            for pattern, theirs in IN_THEIR_FILES:
                ours = re.sub(pattern, theirs, ours)
            renamed[ours] = each.clone(memory_format=torch.contiguous_format)  # a file holds no views
    return renamed


def with_folded_scales(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply layer scales (DINOv2, DeiT III) into the projections before them: the same function without them."""
    folded = dict(state)
    for name in [n for n in state if re.fullmatch(r"blocks\.\d+\.ls[12]\.gamma", n)]:
        layer = name.replace("ls1.gamma", "attn.proj").replace("ls2.gamma", "mlp.fc2")
        if f"{layer}.weight" in folded:
            gamma = folded.pop(name)
            folded[f"{layer}.weight"] = folded[f"{layer}.weight"] * gamma[:, None]
            if f"{layer}.bias" in folded:
                folded[f"{layer}.bias"] = folded[f"{layer}.bias"] * gamma
    return folded


def with_channels(weight: Tensor, channels: int) -> Tensor:
    """Return patch weights [D, C, P, P] for another number of channels: summed for one, or else repeated and rescaled.

    Equal channels give the same patch tokens as before; this is what timm does for colour weights.
    """
    given = weight.shape[1]
    if given == channels:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight.repeat(1, -(-channels // given), 1, 1)[:, :channels]
    return repeated * (given / channels)
