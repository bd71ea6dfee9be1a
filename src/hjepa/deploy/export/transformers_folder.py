"""A folder that stock transformers opens: ``AutoModel`` gives an IJepaModel, ``AutoImageProcessor`` its pixels."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from hjepa.deploy.export.export_format import (
    ExportFormat,
    Reloaded,
    normalised,
    numbers,
    opened_image,
    refuse_other_weights,
)
from hjepa.errors import UserError
from hjepa.files import write_json
from hjepa.models.frozen import FrozenEncoder
from hjepa.models.vit_names import to_hugging_face

WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
BILINEAR = 2  # Pillow's number, which transformers uses


class TransformersFolder(ExportFormat):
    """config.json, model.safetensors and preprocessor_config.json."""

    name, library = "transformers", "transformers"
    any_size, normalises, has_levels = False, False, False

    def refuse_missing_packages(self) -> None:
        """Raise UserError if transformers is missing."""
        if find_spec("transformers") is None:
            raise UserError("--to transformers needs transformers: pip install 'hjepa[hf]'")

    def write(self, encoder: FrozenEncoder, folder: Path, level: int | None) -> None:
        """Write weights under the names of transformers' files, which are older than those of its modules."""
        state = to_hugging_face(encoder.encoder.vit.state_dict())
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
        write_json(folder / CONFIG, model_config(encoder))
        write_json(folder / PROCESSOR, processor_config(encoder))

    def reload(self, folder: Path, encoder: FrozenEncoder) -> Reloaded:
        """Read model and processor with their Auto classes."""
        import transformers

        reader = f"transformers {transformers.__version__}"
        with _quiet():
            model, found = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
            own = transformers.AutoImageProcessor.from_pretrained(folder)
        if type(model).__name__ != "IJepaModel":
            raise UserError(f"{reader} does not know IJepaModel: pip install --upgrade 'hjepa[hf]'")
        refuse_other_weights(reader, set(found["unexpected_keys"]), set(found["missing_keys"]))
        model.eval()

        @torch.no_grad()
        def network(images: Tensor) -> tuple[Tensor, Tensor]:
            tokens = model(pixel_values=normalised(images, encoder)).last_hidden_state
            return tokens, tokens.mean(1)

        def processor(image: Image.Image) -> Tensor:
            return torch.as_tensor(own(images=image, return_tensors="pt")["pixel_values"])[0]

        return Reloaded(network, reader, None if resizes(encoder) is None else processor)

    def note(self, encoder: FrozenEncoder) -> str:
        """Return what IJepaModel and its processor do differently."""
        preprocess = encoder.card["preprocess"]
        rounding = "The processor rounds the longer side of a resized image down, so that it may be a pixel shorter."
        if resizes(encoder) is None:
            resizing = "The processor cannot resize such images: give it floats in 0..1, resized as described below."
        elif preprocess["fit"] == "pad":
            resizing = f"{rounding} It enlarges small images, which were not enlarged in training."
        else:
            resizing = rounding
        return (
            "An `IJepaModel` has no class token and no pooler: average `last_hidden_state` over the patches. "
            f"{resizing} For images of another size, `interpolate_pos_encoding=True` resamples the positions, while "
            "`hjepa.load_encoder` and exports to ONNX and torch compute them."
        )

    def usage(self, encoder: FrozenEncoder) -> str:
        """Return the lines that load the folder in transformers."""
        opened = opened_image(encoder)
        if resizes(encoder) is None:
            imports, given, layout = "", "image", ', input_data_format="channels_first"'  # as the card says
        else:
            imports, given, layout = "from PIL import Image, ImageOps\n", str(opened), ""
        return f"""import torch
{imports}from transformers import AutoImageProcessor, AutoModel

model = AutoModel.from_pretrained("FOLDER")
processor = AutoImageProcessor.from_pretrained("FOLDER")
inputs = processor({given}, return_tensors="pt"{layout})
with torch.no_grad():
    tokens = model(**inputs).last_hidden_state  # [B, N, D]
pooled = tokens.mean(1)  # [B, D]
"""


def model_config(encoder: FrozenEncoder) -> dict[str, Any]:
    """Return the config.json of an IJepaModel that is this network."""
    sizes = encoder.card["timm"]
    height, width = sizes["img_size"]
    return {
        "architectures": ["IJepaModel"],
        "model_type": "ijepa",
        "hidden_size": sizes["embed_dim"],
        "num_hidden_layers": sizes["depth"],
        "num_attention_heads": sizes["num_heads"],
        "intermediate_size": int(sizes["embed_dim"] * sizes["mlp_ratio"]),
        "hidden_act": "gelu",
        "layer_norm_eps": encoder.encoder.vit.norm.eps,
        "qkv_bias": True,
        "image_size": height if height == width else [height, width],
        "patch_size": sizes["patch_size"],
        "num_channels": sizes["in_chans"],
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "dtype": "float32",
    }


def processor_config(encoder: FrozenEncoder) -> dict[str, Any]:
    """Return the preprocessor_config.json that comes nearest to ours with what transformers has."""
    size = resizes(encoder)
    height, width = encoder.card["preprocess"]["image_size"]
    return {
        # It has these steps in all versions; the processor that belongs to IJepaModel cut no centre before version 5.
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": len(encoder.mean) == 3,
        "do_resize": size is not None,
        "size": size or {"height": height, "width": width},
        "resample": BILINEAR,
        "do_center_crop": size is not None,
        "crop_size": {"height": height, "width": width},
        "do_rescale": size is not None,  # what is resized outside is in 0..1 then
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": numbers(encoder, "mean"),
        "image_std": numbers(encoder, "std"),
    }


def resizes(encoder: FrozenEncoder) -> dict[str, int] | None:
    """Return the ``size`` with which transformers resizes as we do before it cuts or pads; None if it cannot.

    ``shortest_edge`` covers a square, but not a rectangle. ``max_height`` and ``max_width`` go into any input size, but
    enlarge small images, which ours leaves as they are.
    """
    preprocess = encoder.card["preprocess"]
    height, width = preprocess["image_size"]
    if encoder.value_range is not None or len(encoder.mean) not in (1, 3, 4):
        return None  # values have to be scaled before images are resized; other channels are no image to it
    if preprocess["fit"] == "pad":
        return {"max_height": height, "max_width": width}
    return {"shortest_edge": height} if height == width else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bars of transformers, which are set for the whole process, for a while."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
