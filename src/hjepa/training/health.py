"""Is pretraining working? Measures of collapse and divergence, and a verdict in plain language.

The loss does not tell: it usually falls and then rises, because the targets get richer, and it is lowest
after a collapse. So the verdict rests on comparisons that need no labels.
"""

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hjepa.models.hjepa import Forward, LevelForward
from hjepa.models.levels import gather_cells
from hjepa.training.content import Content
from hjepa.training.objective import LossName, prediction_loss
from hjepa.training.remedies import LOWER_LR, Remedies, either

LOSS_NOTE = (
    "note: the loss usually falls and then rises, because the targets get richer; "
    "judge by rank and gap, not by the loss"
)


@torch.no_grad()
def measure(level: LevelForward, loss: LossName) -> dict[str, float]:
    """Compare one batch's predictions on a level with trivial baselines; needs at least two images.

    All values but the baseline losses are dimensionless. Leave-one-out means keep a small batch from
    flattering the trivial predictors.
    """
    tokens = level.cells.float()  # [B, M, D]
    # The first context of each image: a second one would be compared with its own image.
    first = slice(None, None, len(level.cell_index) // len(tokens))
    target_index = level.cell_index[first]  # [B, K, T]
    predictions, targets = level.predictions[first].float(), level.targets[first].float()  # [B, K, T, D]
    images = tokens.shape[0]
    by_position = _others_mean(tokens)  # [B, N, D], mean of the other images at the same position
    everywhere = _others_mean(tokens.mean(1))[:, None, None]  # [B, 1, 1, D]
    elsewhere = gather_cells(tokens.roll(1, 0), target_index)  # another image's target at the same position
    spread_position = (tokens - tokens.mean(0)).square().mean()
    spread_all = (tokens - tokens.mean((0, 1))).square().mean()
    to_own = F.cosine_similarity(predictions, targets, dim=-1).mean()
    to_other = F.cosine_similarity(predictions, elsewhere, dim=-1).mean()
    return {
        "loss_mean_token": float(prediction_loss(everywhere.expand_as(targets), targets, loss)),
        "loss_position_mean": float(prediction_loss(gather_cells(by_position, target_index), targets, loss)),
        "target_std": float(spread_all.sqrt()),
        "prediction_std": float((predictions - predictions.mean((0, 1, 2))).square().mean().sqrt()),
        # The fraction of the target variance that position alone explains; unbiased for B images.
        "position_share": float(1 - spread_position * images / (images - 1) / spread_all.clamp_min(1e-12)),
        "own_similarity": float(to_own),
        "cross_sample_gap": float(to_own - to_other),
    }


def judged_level(shares: Sequence[float], final: Sequence[float]) -> int:
    """Return the deepest level that has all its weight, compared with the first one; levels without any do not count.

    ``shares`` are the levels' weights now, ``final`` those after their warm-up.
    """
    risen = (now * final[0] >= 0.999 * then * shares[0] for now, then in zip(shares, final, strict=True))
    return max(number for number, whole in enumerate(risen) if whole and shares[number] > 0)


def measure_levels(forward: Forward, loss: LossName, shares: Sequence[float], judged: int) -> dict[str, Any]:
    """Measure the ``judged`` level; the baseline losses are weighted means over all levels.

    With several levels, ``levels`` holds the measures of each, in order, including its own loss.
    """
    each = [measure(level, loss) for level in forward.levels]
    whole: dict[str, Any] = dict(each[judged])
    for name in ("loss_mean_token", "loss_position_mean"):
        whole[name] = sum(share * found[name] for share, found in zip(shares, each, strict=True))
    if len(each) > 1:
        losses = (float(prediction_loss(level.predictions, level.targets, loss)) for level in forward.levels)
        whole["levels"] = [{"loss": own, **found} for own, found in zip(losses, each, strict=True)]
    return whole


def effective_rank(features: Tensor) -> float:
    """Return RankMe of features [n, D]: exp of the entropy of the singular values (Garrido et al. 2023, eq. 1).

    Between 1 (all features alike) and min(n, D). Not centred, as published: a common direction lowers it.
    Rounded to six decimals: the last bits of threaded LAPACK differ between processes, and a resumed run must log
    exactly what an uninterrupted one does. NaN if a feature is not finite.
    """
    if not features.isfinite().all():
        return float("nan")
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp_min(1e-12) + 1e-7
    return round(float(torch.exp(-(shares * shares.log()).sum())), 6)


def teacher_distance(teacher: nn.Module, student: nn.Module) -> float:
    """Return |teacher - student| / |student| over all trained parameters."""
    pairs = [(t, s) for t, s in zip(teacher.parameters(), student.parameters(), strict=True) if s.requires_grad]
    with torch.no_grad():
        apart = torch._foreach_norm(torch._foreach_sub([t for t, _ in pairs], [s for _, s in pairs]))
        size = torch._foreach_norm([s for _, s in pairs])
    return float(torch.stack(apart).norm() / torch.stack(size).norm().clamp_min(1e-12))


class FeatureQueue:
    """Queue of the pooled features of the most recent images, to measure their rank."""

    def __init__(self, length: int = 512) -> None:
        self.length = length
        self.features: Tensor | None = None  # [n, D]

    def add(self, pooled: Tensor) -> None:
        """Append features [B, D]; the oldest beyond ``length`` are dropped."""
        rows = pooled.detach().float()  # they stay on the device: nothing waits for them before they are asked for
        self.features = (rows if self.features is None else torch.cat([self.features.to(rows.device), rows]))[
            -self.length :
        ].clone()

    def rank(self) -> float:
        """Return the effective rank of the most recent features."""
        return float("nan") if self.features is None else effective_rank(self.features.cpu())


@dataclass(frozen=True)
class Verdict:
    """A one-word judgement, the evidence for it, and what to do next."""

    verdict: str
    evidence: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.evidence}. Next: {self.next_step}"

    def to_json(self) -> dict[str, str]:
        """Return the three parts by name."""
        return {"verdict": self.verdict, "evidence": self.evidence, "next_step": self.next_step}


VERDICTS = ("healthy", "not learned yet", "watch", "partial collapse", "collapsed", "positional collapse", "diverging")

# Thresholds, calibrated on healthy runs and on runs made to collapse on purpose; the command and the measured
# values are in benchmarks/results/health_calibration.md; tests/training/test_health_calibration.py repeats one seed.
COLLAPSED_STD = 0.05  # standard deviation of normalised targets over a batch; healthy runs stay above 0.25
COLLAPSED_RANK = 1.1  # all features point in one direction
PARTIAL_RANK = 2.0
WATCH_RANK = 5.0
MIN_CROSS_SAMPLE_GAP = 0.01  # below, predictions match other images as well; healthy runs soon exceed 0.05
POSITION_FIRST = 200  # steps in which predictors learn position alone, of runs that are sound at step 300 as well
MIN_POSITION_SHARE = 0.2  # below this fraction of the variance, position does not explain the targets either
MAX_RELATIVE_LOSS = 1.5  # loss / position baseline; healthy runs fall below 1 within the grace period
FALLING_HALVES_RATIO = 0.6  # newer / older half of the last five lines: below, the loss is falling
FALLING_STEP_RATIO = 0.95  # each line / the one before it: below in three lines or more, the loss is falling
CLEAR_CHANGE = 2.0  # standard errors of the change in predicted image content
UNCHANGED = 1.0  # standard errors below the start; a term for rank that harms linear probes loses 1.4 and gains 5.9
DIVERGENCE_RATIO = 3.0  # loss / best loss so far; the gradient norm has to be high as well
_JUDGED = ("loss", "relative_loss", "target_std", "effective_rank", "cross_sample_gap", "position_share", "grad_norm")


def grace_steps(total_steps: int) -> int:
    """Return for how many steps a run may look collapsed: predictors learn position before they learn content.

    It is a fraction of the run, as the warm-ups of learning rate and teacher are.
    """
    return min(500, max(60, round(0.15 * total_steps)))


def judge(history: Sequence[Mapping[str, Any]], *, grace: int, remedies: Remedies | None = None) -> Verdict:
    """Return the verdict on the logged lines so far, oldest first.

    It looks at the mean of the last five lines, so a single outlier does not change it.
    """
    remedies = remedies or Remedies()
    now = {key: _mean([line.get(key) for line in history[-5:]]) for key in _JUDGED}
    shown = (
        f"effective rank {now['effective_rank']:.1f}, cross-sample gap {now['cross_sample_gap']:.3f}, "
        f"{now['position_share']:.0%} of the target variance explained by position, "
        f"relative loss {now['relative_loss']:.2f} (1 = position baseline)"
    )
    if runaway := _diverging(history, now):
        return Verdict("diverging", runaway, f"restart with {either(LOWER_LR, remedies.clip())}")
    step = int(history[-1]["step"])
    if step < grace:
        more = "keep training" if step < (remedies.total_steps or grace) else remedies.longer(step, at_least=2 * grace)
        return Verdict("watch", f"too early to tell before step {grace}; {shown}", more)
    gaps = [line["cross_sample_gap"] for line in history[-5:]]
    no_gap = _at_least(gaps) < MIN_CROSS_SAMPLE_GAP
    identical = now["target_std"] < COLLAPSED_STD or now["effective_rank"] < COLLAPSED_RANK
    unexplained = no_gap and now["position_share"] < MIN_POSITION_SHARE
    apart = now["effective_rank"] >= WATCH_RANK
    if identical or (unexplained and not apart and now["relative_loss"] < MAX_RELATIVE_LOSS):
        found = (
            f"features are nearly identical for all images and positions (target std {now['target_std']:.3f}); {shown}"
        )
        return Verdict("collapsed", found, f"restart with {either(remedies.slower_target(), LOWER_LR)}")
    if now["relative_loss"] > MAX_RELATIVE_LOSS:
        return _worse_than_the_mean(history, shown, remedies)
    if unexplained and apart:
        found = f"features differ between images, but predictions do not yet; {shown}"
        return Verdict("watch", found, remedies.longer(step))
    if no_gap and (step < POSITION_FIRST or _mean(gaps[-2:]) >= MIN_CROSS_SAMPLE_GAP):
        found = f"so far, predictions depend on little more than position, which every predictor learns first; {shown}"
        going = step < (remedies.total_steps or POSITION_FIRST)
        return Verdict("watch", found, "keep training" if going else remedies.longer(step, 2 * POSITION_FIRST))
    if no_gap:
        found = f"predictions match other images as well as their own, so only position is predicted; {shown}"
        remedy = either(remedies.smaller_targets(), remedies.longer(step))
        return Verdict("positional collapse", found, f"{remedy}, and compare")
    for number, spread in enumerate(_level_spreads(history[-5:])):
        if spread < COLLAPSED_STD:
            found = f"level {number} has nearly identical targets for all images (target std {spread:.3f}); {shown}"
            remedy = f"restart {either('without this level', f'with {remedies.slower_target() or LOWER_LR}')}"
            return Verdict("partial collapse", found, remedy)
    if now["effective_rank"] < PARTIAL_RANK:
        remedy = f"restart with {either(remedies.varied_crops(), LOWER_LR)}"
        return Verdict("partial collapse", f"features span very few dimensions; {shown}", remedy)
    evaluate = "hjepa evaluate RUN --train LABELLED --test LABELLED"
    check = f"evaluate the features: {evaluate}"
    changes = content_changes(history[-1])
    if changes is None:
        found = f"too few images, or too similar ones, to measure how much of their content features predict; {shown}"
        return Verdict("watch", found, check)
    content_now = _content_in_words(history[-1])
    if not has_learned(changes):
        worse = min(changes.values()) < -CLEAR_CHANGE
        compared = "in part worse than before training" if worse else "hardly better than before training"
        found = f"not collapsed, but {compared}: {content_now}; {shown}"
        return Verdict("not learned yet", found, f"{remedies.longer(step)}{_time_to_double(history[-1])}, then {check}")
    if now["effective_rank"] < WATCH_RANK or now["relative_loss"] > 1.0:
        return Verdict(
            "watch",
            f"{content_now}; {shown}",
            f"{remedies.longer(step)}, then {check}",
        )
    return Verdict("healthy", f"{content_now}; {shown}", evaluate)


def content_changes(line: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the change in predicted image content since the start of training, for each readout (content.py).

    In standard errors of the difference. None if it was not measured.
    """
    changes = {}
    for way in Content._fields:
        now, start, error = (line.get(f"content_{way}{part}", math.nan) for part in ("", "_at_start", "_error"))
        changes[way] = (now - start) / error if error else math.nan
    return changes if all(math.isfinite(change) for change in changes.values()) else None


def has_learned(changes: Mapping[str, float]) -> bool:
    """Return whether features predict more image content than before training.

    One readout has to gain clearly, and none may be lower. Not both have to gain: where untrained features already
    predict most of the content, as on Fashion-MNIST, nearest neighbours have nothing to add, although k-NN by class
    rises (benchmarks/results/quality/verdict-calibration.md).
    """
    return max(changes.values()) > CLEAR_CHANGE and min(changes.values()) > -UNCHANGED


def _content_in_words(line: Mapping[str, Any]) -> str:
    """Describe how much of the image content features predict, now and before training."""
    readouts = {"linear": "with a linear map", "neighbours": "with nearest neighbours"}
    parts: list[str] = []
    for way, words in readouts.items():
        what = "" if parts else " of the image content"
        now, start = line[f"content_{way}"], line[f"content_{way}_at_start"]
        parts.append(f"{now:.0%}{what} {words} ({start:.0%} before training)")
    return f"features predict {' and '.join(parts)}"


def _time_to_double(line: Mapping[str, Any]) -> str:
    """Say how long it takes to see as many images again; nothing if it is less than a minute."""
    images, pace = line.get("images"), line.get("images_per_second")
    if not images or not pace:
        return ""
    minutes = images / pace / 60
    return f", for example for another {images:,} images (about {minutes:.0f} min)" if minutes >= 1 else ""


def _worse_than_the_mean(history: Sequence[Mapping[str, Any]], shown: str, remedies: Remedies) -> Verdict:
    """Judge a run with poor predictions by its trend: all runs begin far above the baseline."""
    if _falls(history[-5:]):
        found = f"predictions are still worse than the mean at each position, but the loss is falling; {shown}"
        return Verdict("watch", found, remedies.longer(int(history[-1]["step"])))
    why = "" if remedies.fixed_targets() else ", because the targets move too fast"
    found = f"predictions are worse than the mean at each position and do not improve{why}; {shown}"
    return Verdict("diverging", found, f"restart with {either(remedies.slower_target(), LOWER_LR)}")


def _falls(lines: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the relative loss is clearly falling; a single line has no trend and passes.

    Either the newer half is clearly lower than the older one, or every line is clearly lower than the one before it.
    Noise on a plateau is neither.
    """
    losses = [line["relative_loss"] for line in lines]
    if len(losses) < 2 or (len(losses) > 2 and all(new < FALLING_STEP_RATIO * old for old, new in pairwise(losses))):
        return True
    newer = len(losses) // 2
    return _mean(losses[-newer:]) < FALLING_HALVES_RATIO * _mean(losses[:-newer])


def _diverging(history: Sequence[Mapping[str, Any]], now: Mapping[str, float]) -> str:
    """Describe what diverges; empty if nothing does."""
    last = history[-1]
    if not all(math.isfinite(last[key]) for key in ("loss", "grad_norm")):
        return f"loss ({last['loss']:.3g}) or gradient norm ({last['grad_norm']:.3g}) is not finite"
    best = min(line["relative_loss"] for line in history)
    # The newest line as well as the mean: a mean that lags behind a steep fall is not a rise.
    least = min(now["relative_loss"], last["relative_loss"])
    if len(history) >= 5 and least > max(DIVERGENCE_RATIO, DIVERGENCE_RATIO * best) and now["grad_norm"] > 1.0:
        return (
            f"the loss is {now['relative_loss']:.1f} times the position baseline and rising, "
            f"gradient norm {now['grad_norm']:.1f}"
        )
    return ""


@dataclass
class Health:
    """Monitors a run: takes each logged line and returns the verdict. Its state is part of the checkpoint."""

    grace: int
    remedies: Remedies = field(default_factory=Remedies)
    queue: FeatureQueue = field(default_factory=FeatureQueue)
    history: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=200))

    def add(self, line: dict[str, Any]) -> Verdict:
        """Add a logged line and return the updated verdict."""
        self.history.append(line)
        return judge(list(self.history), grace=self.grace, remedies=self.remedies)


def _others_mean(values: Tensor) -> Tensor:
    """Return, for each image (first axis), the mean over the other images."""
    images = values.shape[0]
    return (values.sum(0, keepdim=True) - values) / (images - 1)


def _level_spreads(lines: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the mean spread of each level's targets; empty with a single level, which is judged above."""
    spreads = [[level["target_std"] for level in line.get("levels", [])] for line in lines]
    return [_mean(list(values)) for values in zip(*spreads, strict=True)]


def _at_least(values: list[float]) -> float:
    """Return the mean less its standard error, so that a value that fluctuates around zero counts as none."""
    finite = [value for value in values if math.isfinite(value)]
    noise = statistics.stdev(finite) / math.sqrt(len(finite)) if len(finite) > 1 else 0.0
    return _mean(list(finite)) - noise


def _mean(values: list[float | None]) -> float:
    finite = [v for v in values if v is not None and math.isfinite(v)]
    return sum(finite) / len(finite) if finite else float("nan")
