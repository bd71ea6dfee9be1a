"""What to try next, by setting and value; never a value that the run already uses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOMENTA = (0.996, 0.999, 0.9999)  # EMA momentum, each slower than the one before
CLIPS = (1.0, 0.1)  # gradient norm
MIN_CROP_SCALES = (0.3, 0.1)
LOWER_LR = "a 10x lower --optim.lr"


@dataclass(frozen=True)
class Remedies:
    """The fixes that a verdict proposes; ``settings`` by dotted name, ``total_steps`` of the run (None: unknown)."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    total_steps: int | None = None

    def fixed_targets(self) -> bool:
        """Return whether all targets are computed from pixels: the target encoder then has no influence on them."""
        levels = self.settings.get("model.levels") or []
        return bool(levels) and all(depth == 0 for depth, _stride in levels)

    def slower_target(self) -> str:
        """Return a momentum above the current one; empty if it is the highest already, or does not affect the loss."""
        if self.fixed_targets():
            return ""
        now = self.settings.get("ema.momentum", 0.0)
        wanted = next((momentum for momentum in MOMENTA if momentum > now), None)
        return "" if wanted is None else f"a slower target encoder (--ema.momentum {wanted})"

    def clip(self) -> str:
        """Return a gradient clipping threshold below the current one; empty if it is low already."""
        now = self.settings.get("optim.clip_gradient") or float("inf")
        wanted = next((bound for bound in CLIPS if bound < now), None)
        return "" if wanted is None else f"--optim.clip_gradient {wanted:g}"

    def varied_crops(self) -> str:
        """Return more varied crops than the current ones; empty if they are varied already, or if images are padded."""
        if self.settings.get("data.fit") == "pad":  # crops are refused there
            return ""
        now = (self.settings.get("augment.crop_scale") or (1.0,))[0]
        wanted = next((low for low in MIN_CROP_SCALES if low < now), None)
        return "" if wanted is None else f"more varied crops (--augment.crop_scale {wanted:g},1)"

    def smaller_targets(self) -> str:
        """Return smaller targets than the current ones; empty if they are small already."""
        if self.settings.get("masking.sampler") == "random":
            seen = self.settings.get("masking.context_scale", (1.0,))[0]
            more = "make more patches visible (--masking.context_scale 0.5,0.5 --masking.target_scale 0.5,0.5)"
            return "" if seen >= 0.5 else more
        now = self.settings.get("masking.target_scale", (1.0,))[0]
        return "" if now <= 0.1 else "use smaller targets (--masking.target_scale 0.1,0.15)"

    def longer(self, step: int, at_least: int = 0) -> str:
        """Say how to train longer: a finished run needs a command for it."""
        if self.total_steps is None or step < self.total_steps:
            return "train longer"
        return (
            f"train longer (hjepa pretrain DATA --out RUN --resume --extend-to {max(2 * self.total_steps, at_least)})"
        )


def either(*remedies: str) -> str:
    """Join the non-empty remedies with "or"."""
    return " or ".join(remedy for remedy in remedies if remedy)
