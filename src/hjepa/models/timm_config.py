"""``config.json`` beside the weights: stock timm opens a run, ``create_model("local-dir:RUN", pretrained=True)``."""

from collections.abc import Mapping
from typing import Any

from hjepa.models.encoder import TIMM_FIXED, ContextEncoder

ARCHITECTURE = "vit_small_patch16_224"  # any plain ViT that timm knows by name: every size of it is given anew


def timm_config(encoder: ContextEncoder, preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """Return what timm's ``local-dir:`` reads; ``preprocess`` has image_size, mean and std, as in encoder.json.

    timm's own transform covers the input size and cuts the centre, as ours does for ``data.fit = crop``.
    """
    sizes = encoder.architecture
    return {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": sizes["embed_dim"],
        "global_pool": TIMM_FIXED["global_pool"],
        "model_args": {**sizes, **TIMM_FIXED},
        "pretrained_cfg": {
            "input_size": [sizes["in_chans"], *preprocess["image_size"]],
            "fixed_input_size": True,
            "num_classes": 0,
            "mean": list(preprocess["mean"]),
            "std": list(preprocess["std"]),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
