"""A program of torch.export (.pt2): runs where there is PyTorch, without this library and without timm."""

from pathlib import Path

import torch
from torch import Tensor

from hjepa.deploy.export.export_format import ExportFormat, Reloaded
from hjepa.deploy.export.portable import PortableEncoder, exported, takes_any_size
from hjepa.models.frozen import FrozenEncoder

FILE = "encoder.pt2"


class TorchProgram(ExportFormat):
    """encoder.pt2."""

    name, library = "torch", "pytorch"
    any_size, normalises, has_levels = True, True, True

    def write(self, encoder: FrozenEncoder, folder: Path, level: int | None) -> None:
        """Export the encoder's graph for any number and size of images."""
        torch.export.save(exported(PortableEncoder(encoder, level)), folder / FILE)

    def reload(self, folder: Path, encoder: FrozenEncoder) -> Reloaded:
        """Read the program with torch."""
        program = torch.export.load(folder / FILE).module()

        @torch.no_grad()
        def network(images: Tensor) -> tuple[Tensor, Tensor]:
            features = program(images)
            return features["tokens"], features["pooled"]

        return Reloaded(network, f"torch {torch.__version__}")

    def note(self, encoder: FrozenEncoder) -> str:
        """Return which images the program takes."""
        return f"The program needs neither hjepa nor timm. {takes_any_size(encoder)}"

    def usage(self, encoder: FrozenEncoder) -> str:
        """Return the lines that run the program."""
        return """import torch

encoder = torch.export.load("FOLDER/encoder.pt2").module()
features = encoder(images)  # floats in 0..1, [B, C, H, W]; normalisation is inside
tokens, pooled = features["tokens"], features["pooled"]  # [B, N, D], [B, D]
"""
