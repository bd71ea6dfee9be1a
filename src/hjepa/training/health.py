"""Does it work? Measures of collapse and divergence, and a verdict in words.

The loss cannot say: it usually falls and then rises, because the targets get richer, and it is lowest
when everything has collapsed. So the verdict rests on comparisons that need no labels.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hjepa.models.hjepa import Forward
from hjepa.training.objective import LossName, prediction_loss

LOSS_NOTE = (
    "note: the loss usually falls and then rises, because the targets get richer; "
    "judge by rank and gap, not by the loss"
)


@torch.no_grad()
def measure(forward: Forward, target_index: Tensor, loss: LossName) -> dict[str, float]:
    """Compare one batch's predictions with trivial ones; needs at least two images.

    All values but the loss baselines are free of units. Leave-one-out means keep a small batch from
    flattering the trivial predictors.
    """
    tokens = forward.target_tokens.float()  # [B, N, D]
    predictions, targets = forward.predictions.float(), forward.targets.float()  # [B, K, T, D]
    images = tokens.shape[0]
    by_position = _others_mean(tokens)  # [B, N, D], mean of the other images at the same position
    everywhere = _others_mean(tokens.mean(1))[:, None, None]  # [B, 1, 1, D]
    elsewhere = _gather(tokens.roll(1, 0), target_index)  # another image's target at the same position
    spread_position = (tokens - tokens.mean(0)).square().mean()
    spread_all = (tokens - tokens.mean((0, 1))).square().mean()
    to_own = F.cosine_similarity(predictions, targets, dim=-1).mean()
    to_other = F.cosine_similarity(predictions, elsewhere, dim=-1).mean()
    return {
        "loss_mean_token": float(prediction_loss(everywhere.expand_as(targets), targets, loss)),
        "loss_position_mean": float(prediction_loss(_gather(by_position, target_index), targets, loss)),
        "target_std": float(spread_all.sqrt()),
        "prediction_std": float((predictions - predictions.mean((0, 1, 2))).square().mean().sqrt()),
        # The share of the targets' variance that their position alone explains; unbiased for B images.
        "position_share": float(1 - spread_position * images / (images - 1) / spread_all.clamp_min(1e-12)),
        "own_similarity": float(to_own),
        "cross_sample_gap": float(to_own - to_other),
    }


def effective_rank(features: Tensor) -> float:
    """Return RankMe of features [n, D]: exp of the entropy of the singular values (Garrido et al. 2023, eq. 1).

    Between 1 (all images alike) and min(n, D). Not centred, as published: a common direction lowers it.
    """
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp_min(1e-12) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def teacher_distance(teacher: nn.Module, student: nn.Module) -> float:
    """Return |teacher - student| / |student| over all trained parameters."""
    pairs = [(t, s) for t, s in zip(teacher.parameters(), student.parameters(), strict=True) if s.requires_grad]
    with torch.no_grad():
        apart = torch._foreach_norm(torch._foreach_sub([t for t, _ in pairs], [s for _, s in pairs]))
        size = torch._foreach_norm([s for _, s in pairs])
    return float(torch.stack(apart).norm() / torch.stack(size).norm().clamp_min(1e-12))


class FeatureQueue:
    """The pooled features of the newest images, for the effective rank."""

    def __init__(self, length: int = 512) -> None:
        self.length = length
        self.features: Tensor | None = None  # [n, D]

    def add(self, pooled: Tensor) -> None:
        """Append features [B, D]; the oldest beyond ``length`` are dropped."""
        pooled = pooled.detach().float().cpu()
        kept = pooled if self.features is None else torch.cat([self.features, pooled])
        self.features = kept[-self.length :].clone()

    def rank(self) -> float:
        """Return the effective rank of what is held."""
        return float("nan") if self.features is None else effective_rank(self.features)


@dataclass(frozen=True)
class Verdict:
    """A word, what it rests on, and what to do next."""

    verdict: str
    evidence: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.evidence}. Next: {self.next_step}"

    def to_json(self) -> dict[str, str]:
        """Return the three parts by name."""
        return {"verdict": self.verdict, "evidence": self.evidence, "next_step": self.next_step}


VERDICTS = ("healthy", "watch", "partial collapse", "collapsed", "positional collapse", "diverging")

# Thresholds, calibrated on runs made to collapse on purpose and on sound ones
# (tests/training/test_health_calibration.py; benchmarks/results/health_calibration.md).
MIN_STEPS = 60
COLLAPSED_STD = 0.05  # targets have standard deviation ~1 across their own dimensions
PARTIAL_RANK = 2.0
WATCH_RANK = 5.0
POSITION_SHARE = 0.95
NO_GAP = 0.01
RISE = 3.0


def judge(history: list[Mapping[str, Any]]) -> Verdict:
    """Return the verdict on the logged lines so far, oldest first.

    Looks at the mean of the last five lines, so one odd batch does not change it.
    """
    recent = history[-5:]
    now = {key: _mean([line.get(key) for line in recent]) for key in _JUDGED}
    step = int(history[-1]["step"])
    shown = (
        f"effective rank {now['effective_rank']:.1f}, cross-sample gap {now['cross_sample_gap']:.3f}, "
        f"{now['position_share']:.0%} of the targets explained by position alone, "
        f"loss {now['relative_loss']:.2f} of the position baseline"
    )
    if diverging := _diverging(history, now):
        return Verdict(
            "diverging",
            diverging,
            "lower --optim.lr (a tenth), or clip with --optim.clip_gradient 1, and start again",
        )
    if step < MIN_STEPS:
        return Verdict("watch", f"too early to tell, step {step} of the first {MIN_STEPS}; {shown}", "wait")
    if now["target_std"] < COLLAPSED_STD or now["effective_rank"] < 1.05:
        return Verdict(
            "collapsed", f"all images get nearly the same features (target std {now['target_std']:.3f}); {shown}",
            "check that the target encoder moves slowly (--ema.momentum 0.996) and gets no gradient, then start again",
        )  # fmt: skip
    if now["position_share"] > POSITION_SHARE and now["cross_sample_gap"] < NO_GAP:
        return Verdict(
            "positional collapse", f"predictions depend on where, not on what; {shown}",
            "give the predictor more to see (larger --masking.context_scale, smaller target blocks), then start again",
        )  # fmt: skip
    if now["cross_sample_gap"] < NO_GAP:
        return Verdict(
            "positional collapse", f"predictions fit other images as well as their own; {shown}",
            "check that images differ and are visible to the context encoder, then start again",
        )  # fmt: skip
    if now["effective_rank"] < PARTIAL_RANK:
        return Verdict(
            "partial collapse", f"features use few directions; {shown}",
            "try more varied crops (--augment.crop_scale 0.3,1) or a lower --optim.lr",
        )  # fmt: skip
    if now["effective_rank"] < WATCH_RANK or now["relative_loss"] > 1.0:
        return Verdict("watch", shown, "train longer and evaluate: hjepa evaluate RUN --train LABELLED --test LABELLED")
    return Verdict("healthy", shown, "evaluate: hjepa evaluate RUN --train LABELLED --test LABELLED")


_JUDGED = (
    "loss",
    "relative_loss",
    "target_std",
    "effective_rank",
    "cross_sample_gap",
    "position_share",
    "grad_norm",
)


def _diverging(history: list[Mapping[str, Any]], now: Mapping[str, float]) -> str:
    """Say what runs away, or nothing."""
    last = history[-1]
    if not all(math.isfinite(last.get(key) or 0.0) for key in ("loss", "grad_norm")):
        return f"loss {last.get('loss')} and gradient norm {last.get('grad_norm')} are not finite"
    return ""


@dataclass
class Health:
    """Follows a run: feed it each logged line, ask it for the verdict. Its state is in the checkpoint."""

    queue: FeatureQueue = field(default_factory=FeatureQueue)
    history: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=200))

    def add(self, line: dict[str, Any]) -> Verdict:
        """Take a logged line and return the verdict with it included."""
        self.history.append(line)
        return judge(list(self.history))


def _others_mean(values: Tensor) -> Tensor:
    """Return, for each image (first axis), the mean over the other images."""
    images = values.shape[0]
    return (values.sum(0, keepdim=True) - values) / (images - 1)


def _gather(tokens: Tensor, index: Tensor) -> Tensor:
    """Pick tokens [B, N, D] at target indices [B, K, T]: [B, K, T, D]."""
    flat = index.flatten(1)[..., None].expand(-1, -1, tokens.shape[-1])
    return tokens.gather(1, flat).unflatten(1, index.shape[1:])


def _mean(values: list[float | None]) -> float:
    finite = [v for v in values if v is not None and math.isfinite(v)]
    return sum(finite) / len(finite) if finite else float("nan")
