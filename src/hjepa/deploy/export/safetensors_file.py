"""The weights alone, under timm's names, and encoder.json: what a run has too."""

from pathlib import Path

import torch
from torch import Tensor

from hjepa.deploy.export.export_format import ExportFormat, Reloaded, normalised, refuse_other_weights
from hjepa.models.frozen import FrozenEncoder, encoder_bytes

WEIGHTS = "encoder.safetensors"


class SafetensorsFile(ExportFormat):
    """encoder.safetensors; with encoder.json beside it, ``hjepa.load_encoder`` opens the folder too."""

    name, library = "safetensors", "timm"
    any_size, normalises, has_levels = False, False, False

    def write(self, encoder: FrozenEncoder, folder: Path, level: int | None) -> None:
        """Write the weights under timm's names."""
        (folder / WEIGHTS).write_bytes(encoder_bytes(encoder.encoder))

    def reload(self, folder: Path, encoder: FrozenEncoder) -> Reloaded:
        """Read the weights into a stock VisionTransformer, as ``usage`` says."""
        import timm
        from safetensors.torch import load_file
        from timm.models.vision_transformer import VisionTransformer

        sizes = {name: value for name, value in encoder.card["timm"].items() if name != "class"}
        model, state = VisionTransformer(**sizes).eval(), load_file(folder / WEIGHTS)
        reader = f"safetensors and timm {timm.__version__}"
        refuse_other_weights(reader, set(state), set(model.state_dict()))
        model.load_state_dict(state)

        @torch.no_grad()
        def network(images: Tensor) -> tuple[Tensor, Tensor]:
            pixels = normalised(images, encoder)
            return model.forward_features(pixels), model(pixels)

        return Reloaded(network, reader)

    def note(self, encoder: FrozenEncoder) -> str:
        """Return what else opens the folder."""
        return "`hjepa.load_encoder(FOLDER)` and `hjepa evaluate FOLDER` open this folder as they open a run."

    def usage(self, encoder: FrozenEncoder) -> str:
        """Return the lines that build the network in timm."""
        return """import json, torch
from pathlib import Path
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

card = json.loads(Path("FOLDER/encoder.json").read_text())
model = VisionTransformer(**{name: value for name, value in card["timm"].items() if name != "class"}).eval()
model.load_state_dict(load_file("FOLDER/encoder.safetensors"))
mean, std = (torch.tensor(card["preprocess"][name]).view(-1, 1, 1) for name in ("mean", "std"))
with torch.no_grad():
    pixels = (images - mean) / std  # images: floats in 0..1, [B, C, H, W]
    tokens = model.forward_features(pixels)  # [B, N, D]
    pooled = model(pixels)  # [B, D]
"""
