"""A folder that stock timm opens with ``create_model("local-dir:FOLDER", pretrained=True)``, also from a hub."""

from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from hjepa.deploy.export.export_format import ExportFormat, Reloaded, normalised, opened_image, refuse_other_weights
from hjepa.files import write_json
from hjepa.models.frozen import FrozenEncoder, encoder_bytes
from hjepa.models.timm_config import timm_config

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class TimmFolder(ExportFormat):
    """config.json and model.safetensors."""

    name, library = "timm", "timm"
    any_size, normalises, has_levels = False, False, False

    def write(self, encoder: FrozenEncoder, folder: Path, level: int | None) -> None:
        """Write the weights under timm's names, and timm's config."""
        (folder / WEIGHTS).write_bytes(encoder_bytes(encoder.encoder))
        write_json(folder / CONFIG, timm_config(encoder.encoder, encoder.card["preprocess"]))

    def reload(self, folder: Path, encoder: FrozenEncoder) -> Reloaded:
        """Read the folder with timm; its processor is timm's own transform."""
        import timm
        from timm.data import create_transform, resolve_model_data_config

        reader = f"timm {timm.__version__}"
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        with safe_open(folder / WEIGHTS, framework="pt") as written:
            refuse_other_weights(reader, set(written.keys()), set(model.state_dict()))
        transform = create_transform(**resolve_model_data_config(model), is_training=False)

        @torch.no_grad()
        def network(images: Tensor) -> tuple[Tensor, Tensor]:
            pixels = normalised(images, encoder)
            return model.forward_features(pixels), model(pixels)

        def processor(image: Image.Image) -> Tensor:
            pixels: Tensor = transform(image)
            return pixels

        return Reloaded(network, reader, processor)

    def note(self, encoder: FrozenEncoder) -> str:
        """Return how timm's own transform and its other image sizes differ from ours."""
        padded = (
            " The border is the mean colour instead of black, and small images are enlarged."
            if encoder.card["preprocess"]["fit"] == "pad"
            else ""
        )
        return (
            "timm's own transform rounds the longer side of a resized image down, so that it may be a pixel shorter "
            f"than in training.{padded} For images of another size timm resamples the positions, while "
            "`hjepa.load_encoder` and exports to ONNX and torch compute them."
        )

    def usage(self, encoder: FrozenEncoder) -> str:
        """Return the lines that load the folder in timm."""
        opened = opened_image(encoder)
        height, width = encoder.card["preprocess"]["image_size"]
        if opened is None:
            imports, transform = "", "config = model.pretrained_cfg\n"
            transform += 'mean, std = (torch.tensor(config[name]).view(-1, 1, 1) for name in ("mean", "std"))\n'
            pixels = f"(images - mean) / std  # images: floats in 0..1, [B, {len(encoder.mean)}, {height}, {width}]"
        else:
            imports = "from PIL import Image, ImageOps\n"
            transform = "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
            pixels = f"transform({opened})[None]"
        return f"""import timm, torch
{imports}
model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
{transform}with torch.no_grad():
    pixels = {pixels}
    tokens = model.forward_features(pixels)  # [B, N, D]
    pooled = model(pixels)  # [B, D]
"""
