"""HJEPA: wires context encoder, predictor and target encoder."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hjepa.models.encoder import ContextEncoder, build_encoder
from hjepa.models.initialisation import initialise
from hjepa.models.levels import at_least_float32, normalise_targets
from hjepa.models.predictor import Predictor
from hjepa.models.target import TargetEncoder


class Forward(NamedTuple):
    """What one forward pass gives; everything on the target side carries no gradient."""

    predictions: Tensor  # [B, K, T, D]
    targets: Tensor  # [B, K, T, D], layer-normalised
    target_tokens: Tensor  # [B, N, D], layer-normalised tokens of the whole image
    pooled: Tensor  # [B, D], mean of the target encoder's tokens, as used downstream


class HJEPA(nn.Module):
    """Predicts the target encoder's view of hidden blocks from the visible patches.

    Assran et al. 2023 (arXiv:2301.08243). Depends on nothing but its three parts, so each can be
    replaced in an experiment.
    """

    def __init__(self, context_encoder: ContextEncoder, predictor: Predictor, target_encoder: TargetEncoder) -> None:
        super().__init__()
        self.context_encoder = context_encoder
        self.predictor = predictor
        self.target_encoder = target_encoder

    def forward(self, images: Tensor, context_index: Tensor, target_index: Tensor) -> Forward:
        """Predict target blocks of normalised images [B, C, H, W].

        ``context_index`` [B, V] and ``target_index`` [B, K, T] are row-major patch indices.
        """
        targets, tokens, pooled = self.targets(images, target_index)
        context = self.context_encoder(images, context_index)  # [B, V, D]
        predictions = self.predictor(context, context_index, target_index)  # [B, K, T, D]
        return Forward(predictions, targets, tokens, pooled)

    def targets(self, images: Tensor, target_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (targets [B, K, T, D], all target tokens [B, N, D], pooled features [B, D])."""
        raw = at_least_float32(self.target_encoder(images))  # [B, N, D]
        tokens = normalise_targets(raw)
        index = target_index.flatten(1)[..., None].expand(-1, -1, tokens.shape[-1])
        return tokens.gather(1, index).unflatten(1, target_index.shape[1:]), tokens, raw.mean(1)


def build(
    *,
    image_size: tuple[int, int],
    patch_size: int,
    channels: int,
    width: int,
    depth: int,
    heads: int,
    mlp_ratio: float,
    predictor_width: int,
    predictor_depth: int,
    predictor_heads: int,
    momentum: Callable[[int], float],
    seed: int,
) -> HJEPA:
    """Build and initialise the model; the target encoder is copied after initialisation."""
    context_encoder = build_encoder(
        image_size=image_size,
        patch_size=patch_size,
        channels=channels,
        width=width,
        depth=depth,
        heads=heads,
        mlp_ratio=mlp_ratio,
    )
    with torch.random.fork_rng(devices=[]):
        predictor = Predictor(
            grid=context_encoder.grid(image_size),
            encoder_width=width,
            width=predictor_width,
            depth=predictor_depth,
            heads=predictor_heads,
            mlp_ratio=mlp_ratio,
        )
    initialise(context_encoder, seed=seed)
    initialise(predictor, seed=seed + 1)
    return HJEPA(context_encoder, predictor, TargetEncoder(context_encoder, momentum))
