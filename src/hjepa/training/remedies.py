"""What to try next, in the settings' own names: never a value that the run has already."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOMENTA = (0.996, 0.999, 0.9999)  # of the target encoder, each slower than the one before
CLIPS = (1.0, 0.1)
LEAST_CROPS = (0.3, 0.1)
LOWER_LR = "a tenth of --optim.lr"


@dataclass(frozen=True)
class Remedies:
    """Words for a verdict's next step; ``settings`` by dotted name, ``total_steps`` of the run (None: not known)."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    total_steps: int | None = None

    def fixed_targets(self) -> bool:
        """Return whether every level is made of pixels: the target encoder then has no part in what is predicted."""
        levels = self.settings.get("model.levels") or []
        return bool(levels) and all(depth == 0 for depth, _stride in levels)

    def slower_target(self) -> str:
        """Name a momentum above the one in use; nothing if it is at the top already, or has no part in the loss."""
        if self.fixed_targets():
            return ""
        now = self.settings.get("ema.momentum", 0.0)
        wanted = next((momentum for momentum in MOMENTA if momentum > now), None)
        return "" if wanted is None else f"a target encoder that moves more slowly (--ema.momentum {wanted})"

    def clip(self) -> str:
        """Name a bound of the gradient below the one in use; nothing if it is low already."""
        now = self.settings.get("optim.clip_gradient") or float("inf")
        wanted = next((bound for bound in CLIPS if bound < now), None)
        return "" if wanted is None else f"--optim.clip_gradient {wanted:g}"

    def varied_crops(self) -> str:
        """Name crops that vary more than those in use; nothing if they do already, or if images are padded."""
        if self.settings.get("data.fit") == "pad":  # crops are refused there
            return ""
        now = (self.settings.get("augment.crop_scale") or (1.0,))[0]
        wanted = next((least for least in LEAST_CROPS if least < now), None)
        return "" if wanted is None else f"more varied crops (--augment.crop_scale {wanted:g},1)"

    def smaller_targets(self) -> str:
        """Name targets smaller than those in use; nothing if they are small already."""
        if self.settings.get("masking.sampler") == "random":
            seen = self.settings.get("masking.context_scale", (1.0,))[0]
            more = "let the context show more (--masking.context_scale 0.5,0.5 --masking.target_scale 0.5,0.5)"
            return "" if seen >= 0.5 else more
        now = self.settings.get("masking.target_scale", (1.0,))[0]
        return "" if now <= 0.1 else "let the context show more (--masking.target_scale 0.1,0.15)"

    def longer(self, step: int, at_least: int = 0) -> str:
        """Say how a run gets more steps: a finished one has to be told."""
        if self.total_steps is None or step < self.total_steps:
            return "train longer"
        return (
            f"train longer (hjepa pretrain DATA --out RUN --resume --extend-to {max(2 * self.total_steps, at_least)})"
        )


def either(*remedies: str) -> str:
    """Join what is left of some remedies with or."""
    return " or ".join(remedy for remedy in remedies if remedy)
