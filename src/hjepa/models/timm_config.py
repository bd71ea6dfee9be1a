"""``config.json`` for stock timm, which opens a run with ``create_model("local-dir:RUN", pretrained=True)``."""

from collections.abc import Mapping
from typing import Any

from hjepa.models.encoder import TIMM_FIXED, ContextEncoder

ARCHITECTURE = "vit_small_patch16_224"  # any plain ViT of timm: all its sizes are overridden


def timm_config(encoder: ContextEncoder, preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config that timm's ``local-dir:`` reads; ``preprocess`` is that of encoder.json.

    timm's own transform resizes and centre-crops, like ours for ``data.fit = crop``; for ``pad`` it keeps
    the whole image within a border, like ours, but the border has the mean colour and small images are enlarged.
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
            "crop_mode": "center" if preprocess["fit"] == "crop" else "border",
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
