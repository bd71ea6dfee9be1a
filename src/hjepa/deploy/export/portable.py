"""The encoder as a program for any number and size of images: what ONNX files and torch programs are made of."""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from hjepa.models.frozen import FrozenEncoder


class PortableEncoder(nn.Module):
    """Maps floats in 0..1 [B, C, H, W] to ``tokens`` [B, N, D] and ``pooled`` [B, D]; normalisation is inside.

    ``number`` selects a level: its tokens are the level's cells. None is the last block.
    """

    def __init__(self, frozen: FrozenEncoder, number: int | None = None) -> None:
        super().__init__()
        self.frozen, self.number = frozen, number

    @property
    def smallest_grid(self) -> int:
        """Return the patches along a side that give two cells: a symbol of torch.export never stands for one."""
        return 2 if self.number is None else self.frozen.card_levels[self.number].stride + 1

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Encode images."""
        tokens = self.frozen(images).tokens if self.number is None else self.frozen.level(images, self.number)
        tokens = tokens.flatten(1, -2)  # the cells of a level are a grid
        return {"tokens": tokens, "pooled": tokens.mean(1)}


def takes_any_size(encoder: FrozenEncoder) -> str:
    """Return in words which images an exported graph takes."""
    patch = encoder.encoder.patch_size
    return (
        f"It takes any number of images, of any height and width that are multiples of {patch} and give at least two "
        "cells a side: the positions are computed in the graph."
    )


def exported(encoder: PortableEncoder) -> ExportedProgram:
    """Return the encoder's graph, with symbols for the number, the height and the width of images."""
    patch, channels, smallest = encoder.frozen.encoder.patch_size, len(encoder.frozen.mean), encoder.smallest_grid
    symbols = {
        0: Dim("batch", min=1),
        2: patch * Dim("rows", min=smallest),
        3: patch * Dim("columns", min=smallest),
    }
    example = torch.zeros(2, channels, 2 * smallest * patch, 3 * smallest * patch)
    # Without a gradient the graph has no context for one either, which other runtimes do not know.
    with torch.no_grad():
        return torch.export.export(encoder, (example,), dynamic_shapes={"images": symbols})
