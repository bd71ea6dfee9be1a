"""FrozenEncoder: a pretrained encoder for downstream use, and its format on disk."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn

from hjepa.errors import UserError
from hjepa.files import load_tensors
from hjepa.models.checkpoint_weights import refuse_misfit
from hjepa.models.encoder import TIMM_FIXED, ContextEncoder, build_encoder, normalise_pixels
from hjepa.models.initialisation import Initialisation, initialise
from hjepa.models.levels import Level, PixelTargets, cell_grid, last_level, level_cells


class Features(NamedTuple):
    """The features of a batch of images."""

    tokens: Tensor  # [B, N, D], row-major on the patch grid
    pooled: Tensor  # [B, D], mean over the tokens


class FrozenEncoder(nn.Module):
    """Maps images [B, C, H, W] to tokens [B, N, D] and pooled features [B, D].

    Images are uint8, or floats in 0..1, as a tensor or a numpy array; they are normalised here. An encoder trained on
    images of more than 8 bits has a ``value_range`` and also takes their integers as they are. Any size that the patch
    size divides works. ``card`` is the content of encoder.json: sizes, preprocessing and the origin of the weights.
    """

    def __init__(self, encoder: ContextEncoder, card: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.card = dict(card)
        preprocess = card["preprocess"]
        self.register_buffer("mean", torch.tensor(preprocess["mean"]).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess["std"]).view(-1, 1, 1), persistent=False)
        self.eval()

    mean: Tensor
    std: Tensor

    @torch.no_grad()
    def forward(self, images: Tensor | np.ndarray) -> Features:
        """Encode images; raises UserError for a wrong number of channels or an unsuitable size."""
        tokens = self.encoder(self._normalised(images))
        return Features(tokens, tokens.mean(1))

    @torch.no_grad()
    def block_tokens(self, images: Tensor | np.ndarray, last: int) -> list[Tensor]:
        """Return the tokens [B, N, D] after each of the last ``last`` blocks, oldest first."""
        return self.encoder.block_tokens(self._normalised(images), last)

    @torch.no_grad()
    def levels(self, images: Tensor | np.ndarray) -> list[Tensor]:
        """Return the features of each level that was a prediction target: cells [B, GH_l, GW_l, D], finest first.

        They are layer-normalised, as in training. For a level of pixels (depth 0), D is the size of its target per
        patch.
        """
        return self._cells(images, self.card_levels)

    @torch.no_grad()
    def level(self, images: Tensor | np.ndarray, number: int) -> Tensor:
        """Return the features of one level: cells [B, GH_l, GW_l, D], as in ``levels``."""
        return self._cells(images, self.card_levels[number : number + 1])[0]

    def _cells(self, images: Tensor | np.ndarray, wanted: Sequence[Level]) -> list[Tensor]:
        pixels, grid = self._normalised(images), self.grid(images)
        pixel_targets = self.card.get("pixel_targets", "values")  # cards without it were written before there were two
        depths = sorted({level.depth for level in wanted} - {0})
        by_depth = dict(zip(depths, self.encoder(pixels, depths=depths), strict=True)) if depths else {}
        return [
            level_cells(level, by_depth, pixels, grid, pixel_targets).unflatten(1, cell_grid(grid, level.stride))
            for level in wanted
        ]

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Return the values of images of more than 8 bits that become 0 and 1; None if there were none in training."""
        given = self.card["preprocess"].get("value_range")
        return None if given is None else (float(given[0]), float(given[1]))

    @property
    def pages(self) -> Literal["first", "all"]:
        """Return which pages of a file were images in training."""
        return "all" if self.card["preprocess"].get("pages") == "all" else "first"

    @property
    def depth(self) -> int:
        """Return the number of blocks."""
        return self.encoder.depth

    @property
    def card_levels(self) -> tuple[Level, ...]:
        """Return the levels this encoder was trained on, finest first."""
        if self.card["levels"] == ["last"]:  # written before there were several
            return last_level(self.encoder.depth)
        return tuple(Level(*level) for level in self.card["levels"])

    def grid(self, images: Tensor | np.ndarray) -> tuple[int, int]:
        """Return the patch grid (GH, GW) of images [B, C, H, W]."""
        return self.encoder.grid((images.shape[-2], images.shape[-1]))

    def _normalised(self, images: Tensor | np.ndarray) -> Tensor:
        images = _as_tensor(images, self.value_range)
        patch, channels = self.encoder.patch_size, len(self.mean)
        if images.ndim != 4 or images.shape[1] != channels:
            raise UserError(f"this encoder takes images [B, {channels}, H, W], got {list(images.shape)}")
        if images.shape[2] % patch or images.shape[3] % patch:
            raise UserError(
                f"images of {images.shape[2]}x{images.shape[3]} pixels cannot be cut into patches of {patch}: "
                f"resize them to multiples of {patch}"
            )
        # Twice the range, because a sharp resize of floats may pass 1 a little; bytes as floats lie far above.
        # A value cannot decide anything in an exported graph, so there it is not looked at.
        looks = images.is_floating_point() and images.numel() and not torch.compiler.is_compiling()
        if looks and float(images.max()) > 2.0:
            raise UserError(
                f"images are floats up to {float(images.max()):.3g}: pass uint8, or floats in 0..1 "
                "(the encoder normalises them itself)"
            )
        return normalise_pixels(images.to(self.mean.device), self.mean, self.std)


def _as_tensor(images: Any, value_range: tuple[float, float] | None) -> Tensor:
    """Return images as a tensor; raises UserError for what cannot be pixels.

    Integers of more than 8 bits are brought to 0..1 by the range of the training images.
    """
    if isinstance(images, np.ndarray) and images.dtype.kind in "uif":
        images = torch.from_numpy(np.array(images))  # a copy: torch cannot hold a read-only or a reversed array
    if not isinstance(images, Tensor):
        kind = f"array of {images.dtype}" if isinstance(images, np.ndarray) else type(images).__name__
        raise UserError(f"images are of type {kind}: pass a tensor or an array [B, C, H, W], uint8 or floats in 0..1")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        if value_range is not None and images.dtype != torch.bool:
            low, high = value_range
            return ((images.float() - low) / (high - low)).clamp(0.0, 1.0)
        raise UserError(f"images are {str(images.dtype).removeprefix('torch.')}: pass uint8, or floats in 0..1")
    return images


def encoder_card(
    encoder: ContextEncoder,
    preprocess: Mapping[str, Any],
    provenance: Mapping[str, Any],
    levels: Sequence[Level] | None = None,
    pixel_targets: PixelTargets = "values",
    initialisation: Initialisation = "released",
) -> dict[str, Any]:
    """Return the content of encoder.json; ``timm`` holds the arguments of a stock VisionTransformer."""
    return {
        "format": 1,
        "timm": {"class": "VisionTransformer", **encoder.architecture, **TIMM_FIXED},
        "preprocess": dict(preprocess),
        "pooling": "avg",
        "levels": [list(level) for level in levels or last_level(encoder.depth)],
        "pixel_targets": pixel_targets,  # of levels of depth 0
        "initialisation": initialisation,  # of the random-init control of evaluations
        "provenance": dict(provenance),
    }


def encoder_bytes(encoder: ContextEncoder) -> bytes:
    """Return encoder.safetensors: the weights under timm's names."""
    return save({name: tensor.contiguous() for name, tensor in encoder.vit.state_dict().items()})


def load_frozen(folder: Path) -> FrozenEncoder:
    """Load encoder.safetensors and encoder.json from a run folder; strict, UserError in one line."""
    weights, card_file = folder / "encoder.safetensors", folder / "encoder.json"
    if not weights.is_file() or not card_file.is_file():
        raise UserError(
            f"{folder} contains no encoder (encoder.safetensors, encoder.json): pass a run that has saved one"
        )
    try:
        card, state = json.loads(card_file.read_text()), load_tensors(weights)
    except (json.JSONDecodeError, SafetensorError):
        raise UserError(
            f"{folder} contains a damaged encoder: write it again with hjepa pretrain ... --resume"
        ) from None
    encoder = encoder_from_card(card)
    refuse_misfit("encoder", encoder.vit, state)
    encoder.vit.load_state_dict(state)
    return FrozenEncoder(encoder, card)


def random_init_copy(frozen: FrozenEncoder, *, seed: int) -> FrozenEncoder:
    """Return an encoder of the same architecture with randomly initialised weights: the control of every evaluation."""
    encoder = encoder_from_card(frozen.card)
    initialise(encoder, seed=seed, kind=frozen.card.get("initialisation", "released"))
    return FrozenEncoder(encoder, frozen.card)


def encoder_from_card(card: Mapping[str, Any]) -> ContextEncoder:
    """Build the network that an encoder.json describes, without its weights."""
    sizes = card["timm"]
    return build_encoder(
        image_size=tuple(sizes["img_size"]),
        patch_size=sizes["patch_size"],
        channels=sizes["in_chans"],
        width=sizes["embed_dim"],
        depth=sizes["depth"],
        heads=sizes["num_heads"],
        mlp_ratio=sizes["mlp_ratio"],
    )
