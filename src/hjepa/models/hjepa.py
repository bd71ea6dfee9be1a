"""HJEPA: connects context encoder, predictor and target encoder."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hjepa.models.encoder import ContextEncoder, build_encoder
from hjepa.models.initialisation import Initialisation, initialise
from hjepa.models.levels import (
    Level,
    PixelTargets,
    at_least_float32,
    cell_of,
    gather_cells,
    last_level,
    level_cells,
    level_widths,
)
from hjepa.models.predictor import Predictor
from hjepa.models.target import TargetEncoder


class LevelForward(NamedTuple):
    """The outputs of a forward pass on one level; targets carry no gradient.

    With several contexts per image, B counts contexts; those of one image are adjacent.
    """

    predictions: Tensor  # [B, K, T, D]
    targets: Tensor  # [B, K, T, D], layer-normalised
    cells: Tensor  # [images, M, D], layer-normalised cells of the whole image
    cell_index: Tensor  # [B, K, T], the cell of each target


class Forward(NamedTuple):
    """The outputs of a forward pass: one entry per level, finest first."""

    levels: tuple[LevelForward, ...]
    pooled: Tensor  # [images, D], mean of the target encoder's last tokens, as used downstream
    context: Tensor  # [B, V, D], the context encoder's tokens of the visible patches

    def detached(self) -> "Forward":
        """Return the same without the graph of the context and the predictions."""
        levels = (level._replace(predictions=level.predictions.detach()) for level in self.levels)
        return self._replace(levels=tuple(levels), context=self.context.detach())


class HJEPA(nn.Module):
    """Predicts the target encoder's features of hidden blocks from the visible patches, on one level or several.

    I-JEPA (Assran et al. 2023, arXiv:2301.08243) is the case of one level: the last block, every patch. The model
    depends on nothing but its parts, so each of them can be replaced in an experiment.
    """

    def __init__(
        self,
        context_encoder: ContextEncoder,
        predictor: Predictor,
        target_encoder: TargetEncoder,
        levels: Sequence[Level] | None = None,
        pixel_targets: PixelTargets = "values",
    ) -> None:
        super().__init__()
        self.context_encoder = context_encoder
        self.predictor = predictor
        self.target_encoder = target_encoder
        self.levels = tuple(levels or last_level(context_encoder.depth))
        self.pixel_targets = pixel_targets  # of levels of depth 0

    def forward(self, images: Tensor, context_index: Tensor, target_index: Tensor) -> Forward:
        """Predict target blocks of normalised images [B, C, H, W].

        ``context_index`` [B, V] and ``target_index`` [B, K, T] are row-major patch indices. There may be several
        contexts per image, adjacent in the batch: one pass of the target encoder then serves all of them (Baevski et
        al. 2022, data2vec 2.0, arXiv:2212.07525, section 3.3), and B below counts contexts.
        """
        cells, pooled = self.target_cells(images)  # [images, M, D] each
        contexts = len(context_index) // len(images)
        context = self.context_encoder(images, context_index)  # [B, V, D]
        predictions = self.predictor(context, context_index, target_index)  # [B, K, T, D] each
        grid = self.context_encoder.grid((images.shape[-2], images.shape[-1]))
        index = [cell_of(target_index, grid, level.stride) for level in self.levels]
        of_images = (i.unflatten(0, (len(images), contexts)).flatten(1, 2) for i in index)  # [images, contexts * K, T]
        targets = (gather_cells(c, i).reshape(*target_index.shape, -1) for c, i in zip(cells, of_images, strict=True))
        return Forward(tuple(map(LevelForward, predictions, targets, cells, index)), pooled, context)

    def target_cells(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the cells [B, M, D] of each level, and pooled features [B, D]; without a gradient graph."""
        grid = self.context_encoder.grid((images.shape[-2], images.shape[-1]))
        last = self.context_encoder.depth
        depths = sorted({level.depth for level in self.levels} - {0} | {last})
        by_depth = dict(zip(depths, self.target_encoder(images, depths), strict=True))
        cells = [level_cells(level, by_depth, images, grid, self.pixel_targets) for level in self.levels]
        return cells, at_least_float32(by_depth[last]).mean(1)


def build_hjepa(
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
    levels: Sequence[Level] | None = None,
    pixel_targets: PixelTargets = "values",
    initialisation: Initialisation = "released",
) -> HJEPA:
    """Build the model and initialise its weights from ``seed``."""
    levels = levels or last_level(depth)
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
            target_widths=level_widths(
                levels, encoder_width=width, patch_size=patch_size, channels=channels, pixel_targets=pixel_targets
            ),
            width=predictor_width,
            depth=predictor_depth,
            heads=predictor_heads,
            mlp_ratio=mlp_ratio,
        )
    model = HJEPA(context_encoder, predictor, TargetEncoder(context_encoder, momentum), levels, pixel_targets)
    initialise_hjepa(model, seed=seed, kind=initialisation)
    return model


def initialise_hjepa(model: HJEPA, *, seed: int, kind: Initialisation) -> None:
    """Initialise encoder and predictor from ``seed``; the target encoder starts as a copy of the context encoder."""
    initialise(model.context_encoder, seed=seed, kind=kind)
    # Mask tokens carry no content at initialisation, so attention to similar tokens would be meaningless in the
    # predictor: it gets Xavier instead.
    initialise(model.predictor, seed=seed + 1, kind="xavier" if kind == "mimetic" else kind)
    model.target_encoder.copy_from_context_encoder(model.context_encoder)
