"""The measures, on tensors whose answer is known."""

import math
import re

import pytest
import torch

from hjepa.config import by_name, read_options, read_recipe, recipe_names, resolve
from hjepa.models.hjepa import LevelForward
from hjepa.setup.build import build_sampler
from hjepa.training.health import (
    VERDICTS,
    FeatureQueue,
    Health,
    effective_rank,
    judge,
    measure,
    teacher_distance,
)
from hjepa.training.remedies import Remedies

B, N, D, K, T = 64, 16, 24, 4, 3


def level_of(tokens: torch.Tensor, predictions=None) -> LevelForward:
    index = torch.randint(0, N, (B, K, T), generator=torch.Generator().manual_seed(1))
    targets = tokens.gather(1, index.flatten(1)[..., None].expand(-1, -1, D)).unflatten(1, (K, T))
    predictions = targets if predictions is None else predictions(targets, index)
    return LevelForward(predictions, targets, tokens, index)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_perfect_predictions_of_varied_images():
    found = measure(level_of(normal(B, N, D)), "l2")
    assert found["own_similarity"] == pytest.approx(1.0)
    assert found["cross_sample_gap"] == pytest.approx(1.0, abs=0.05)
    assert found["target_std"] == pytest.approx(1.0, abs=0.05)
    assert found["position_share"] == pytest.approx(0.0, abs=0.02)
    # Predicting a mean of others leaves variance 1 + 1/(B-1).
    assert found["loss_mean_token"] == pytest.approx(1.0, abs=0.08)
    assert found["loss_position_mean"] == pytest.approx(B / (B - 1), abs=0.08)


def test_tokens_that_only_depend_on_their_position():
    tokens = normal(1, N, D).expand(B, N, D) + 1e-4 * normal(B, N, D, seed=2)
    found = measure(level_of(tokens), "l2")
    assert found["position_share"] == pytest.approx(1.0, abs=1e-3)
    assert found["cross_sample_gap"] == pytest.approx(0.0, abs=1e-3)
    assert found["loss_position_mean"] == pytest.approx(0.0, abs=1e-3)
    assert found["loss_mean_token"] > 0.5


def test_half_of_the_variance_by_position():
    tokens = normal(1, N, D) + normal(B, N, D, seed=2)
    assert measure(level_of(tokens), "l2")["position_share"] == pytest.approx(0.5, abs=0.05)


def test_predictions_of_another_image_have_no_gap():
    tokens = normal(B, N, D)
    found = measure(level_of(tokens, lambda targets, _: targets.roll(B // 2, 0)), "l2")
    assert found["cross_sample_gap"] == pytest.approx(0.0, abs=0.05)


def test_baselines_leave_the_image_itself_out():
    """With two images the mean of the others is the other image, not half of oneself."""
    tokens = torch.stack([torch.zeros(N, D), torch.ones(N, D)])
    index = torch.zeros(2, 1, 1, dtype=torch.long)
    targets = tokens[:, :1, None].clone()
    found = measure(LevelForward(targets, targets, tokens, index), "l2")
    assert found["loss_position_mean"] == found["loss_mean_token"] == 1.0


def test_effective_rank_of_known_matrices():
    assert effective_rank(torch.eye(32)) == pytest.approx(32, rel=1e-3)
    assert effective_rank(torch.ones(50, 8)) == pytest.approx(1.0, abs=1e-3)
    half = torch.zeros(40, 10)
    half[torch.arange(40), torch.arange(40) % 4] = 1.0
    assert effective_rank(half) == pytest.approx(4.0, rel=1e-3)
    values = torch.tensor([3.0, 1.0])  # exp(H(0.75, 0.25))
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(torch.diag(values)) == pytest.approx(expected, rel=1e-4)


def test_the_queue_keeps_the_newest():
    queue = FeatureQueue(length=5)
    assert math.isnan(queue.rank())
    for number in range(4):
        queue.add(torch.full((2, 3), float(number)))
    assert queue.features[:, 0].tolist() == [1.0, 2.0, 2.0, 3.0, 3.0]


def test_teacher_distance_is_relative():
    student, teacher = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    with torch.no_grad():
        for s, t in zip(student.parameters(), teacher.parameters(), strict=True):
            s.fill_(2.0)
            t.fill_(3.0)
    assert teacher_distance(teacher, student) == pytest.approx(0.5)


SOUND = {
    "loss": 0.1, "relative_loss": 0.5, "target_std": 0.6, "effective_rank": 20.0, "cross_sample_gap": 0.2,
    "position_share": 0.4, "grad_norm": 0.3, "prediction_std": 0.4, "lr": 1e-3,
    "content_linear": 0.4, "content_linear_error": 0.01, "content_linear_at_start": 0.2,
    "content_neighbours": 0.3, "content_neighbours_error": 0.01, "content_neighbours_at_start": 0.1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "healthy"),
        ({"target_std": 0.001, "effective_rank": 1.0, "cross_sample_gap": 0.0}, "collapsed"),
        ({"position_share": 0.99, "cross_sample_gap": 0.0}, "positional collapse"),
        ({"position_share": 0.5, "cross_sample_gap": 0.001, "relative_loss": 1.1}, "positional collapse"),
        ({"position_share": 0.0, "cross_sample_gap": 0.0, "target_std": 0.15, "effective_rank": 2.0}, "collapsed"),
        # a regularised run whose predictor lags behind features that differ: the recipe demo at step 180
        ({"position_share": 0.17, "cross_sample_gap": 0.008, "target_std": 0.2, "effective_rank": 31.0}, "watch"),
        ({"effective_rank": 1.5}, "partial collapse"),
        ({"effective_rank": 3.0}, "watch"),
        # photographs with a term that buys rank: features that are further apart and know less
        ({"effective_rank": 95.0, "content_linear": 0.18}, "not learned yet"),
        ({"effective_rank": 95.0, "content_neighbours": 0.08}, "not learned yet"),
        ({"content_linear": 0.215, "content_neighbours": 0.115}, "not learned yet"),  # within the noise
        # clothes: nearest neighbours knew most from the start, the linear map gains, k-NN by class gains nine points
        ({"content_neighbours": 0.102}, "healthy"),
        ({"content_linear": 0.195}, "healthy"),
        ({"content_linear": 0.186}, "not learned yet"),  # a term for rank: k-NN -1, linear probe -3
        ({"content_linear": math.nan, "content_neighbours": math.nan}, "watch"),
        ({"content_linear_at_start": math.nan}, "watch"),
        ({"loss": math.nan}, "diverging"),
        ({"grad_norm": math.inf}, "diverging"),
        ({"relative_loss": 8.0, "grad_norm": 40.0}, "diverging"),
        ({"relative_loss": 1.2}, "watch"),
        ({"relative_loss": 2.0}, "diverging"),
    ],
)
def test_each_verdict(changes, expected):
    history = [SOUND | {"step": 20 * n} for n in range(1, 20)]
    history += [SOUND | changes | {"step": 20 * n} for n in range(20, 101)]
    verdict = judge(history, grace=60)
    assert verdict.verdict == expected
    assert expected in VERDICTS
    assert verdict.evidence and verdict.next_step
    assert judge(history[:1], grace=60).verdict in ("watch", "diverging")


def test_one_odd_line_does_not_change_the_verdict():
    history = [SOUND | {"step": 20 * n} for n in range(1, 100)]
    assert judge([*history, SOUND | {"step": 2000, "cross_sample_gap": 0.0}], grace=60).verdict == "healthy"


def test_a_gap_that_jumps_around_nothing_is_none():
    """The last lines of learning rate x100, seed 0, as measured: a mean of 0.028 is noise there."""
    gaps = [0.098, 0.06, -0.015, 0.016, -0.017]
    broken = SOUND | {"position_share": 0.0, "effective_rank": 2.2, "relative_loss": 0.95}
    history = [broken | {"step": 100 + n, "cross_sample_gap": gap} for n, gap in enumerate(gaps)]
    assert judge(history, grace=60).verdict == "collapsed"
    steady = [line | {"cross_sample_gap": 0.028} for line in history]
    assert judge(steady, grace=60).verdict == "watch"


JUMPING = (0.098, 0.060, -0.015, 0.016, -0.017)  # gaps of a run that has broken down (health_calibration.md)


def test_position_is_what_every_predictor_learns_first():
    """`hjepa-tiny` after 100 steps: on three datasets it is sound at step 300."""
    early = [SOUND | {"step": 20 * n, "cross_sample_gap": 0.001, "position_share": 0.6} for n in range(1, 10)]
    verdict = judge(early, grace=60, remedies=Remedies(total_steps=180))
    assert verdict.verdict == "watch" and "position" in verdict.evidence
    assert verdict.next_step.endswith("--extend-to 400)")
    assert judge(early, grace=60, remedies=Remedies(total_steps=5000)).next_step == "keep training"
    late = [*early, early[-1] | {"step": 200}]
    assert judge(late, grace=60).verdict == "positional collapse"
    begun = [*early, early[-1] | {"step": 200, "cross_sample_gap": 0.009}]  # `hjepa-tiny` on photographs
    begun.append(begun[-1] | {"step": 225, "cross_sample_gap": 0.018})
    assert judge(begun, grace=60).verdict == "watch"
    broken_down = [begun[-1] | {"step": 300 + 20 * n, "cross_sample_gap": gap} for n, gap in enumerate(JUMPING)]
    assert judge(broken_down, grace=60).verdict == "positional collapse"


def lines_with(losses, **changes):
    return [SOUND | changes | {"step": 20 * n, "relative_loss": loss} for n, loss in enumerate(losses, 1)]


@pytest.mark.parametrize(
    "losses",
    [[15.5, 8.3, 1.9, 1.3], [15.5, 8.3, 1.9, 1.3, 1.2], [2.4], [40.0, 21.0, 12.0, 7.0, 4.5], [2.02, 1.62, 1.38]],
)
def test_a_loss_that_still_falls_is_not_called_diverging(losses):
    """Every run begins far above the baseline; a short one is there still when its grace ends."""
    verdict = judge(lines_with(losses, grad_norm=3.0), grace=20)
    assert verdict.verdict == "watch" and "falling" in str(verdict) and "rising" not in str(verdict)


@pytest.mark.parametrize(
    "losses",
    [[2.0, 2.1, 1.9, 2.0, 1.9], [2.2, 1.9, 1.85], [1.3, 1.9, 8.3, 15.5], [0.5, 0.5, 0.5, 4.0, 5.0, 6.0, 5.0, 6.0]],
)
def test_a_bad_loss_that_stays_or_rises_is_diverging(losses):
    assert judge(lines_with(losses), grace=20).verdict == "diverging"


def test_remedies_are_not_what_the_run_does_already():
    bad = lines_with([2.0] * 6)
    assert "--ema.momentum 0.996" in judge(bad, grace=20).next_step
    used = {"ema.momentum": 0.996, "augment.crop_scale": (0.3, 1.0), "masking.target_scale": (0.1, 0.15)}
    remedies = Remedies(used | {"optim.clip_gradient": 1.0})
    cases = {
        "diverging": bad,
        "collapsed": lines_with([0.5] * 6, target_std=0.0),
        "partial collapse": lines_with([0.5] * 6, effective_rank=1.5),
        "positional collapse": lines_with([0.5] * 10, cross_sample_gap=0.0),
    }
    for name, lines in cases.items():
        verdict = judge(lines, grace=20, remedies=remedies)
        assert verdict.verdict == name
        for value in ("momentum 0.996", "crop_scale 0.3,1", "target_scale 0.1,0.15", "clip_gradient 1"):
            assert value not in verdict.next_step
    frozen = judge(bad, grace=20, remedies=Remedies({"ema.momentum": 1.0})).next_step
    assert "--optim.lr" in frozen and "--ema.momentum" not in frozen
    runaway = judge(lines_with([8.0] * 6, loss=math.nan), grace=20, remedies=remedies)
    assert re.search(r"--optim\.lr\b.* or --optim\.clip_gradient 0\.1$", runaway.next_step)


def test_targets_of_pixels_are_not_told_to_move_more_slowly():
    of_pixels = Remedies({"model.levels": ((0, 1),), "ema.momentum": 0.98})
    for lines in (lines_with([2.0] * 6), lines_with([0.5] * 6, target_std=0.0)):
        verdict = judge(lines, grace=20, remedies=of_pixels)
        assert "--optim.lr" in verdict.next_step and "--ema.momentum" not in verdict.next_step
        assert "targets move" not in verdict.evidence
    mixed = Remedies({"model.levels": ((0, 1), (4, 1)), "ema.momentum": 0.98})
    assert "--ema.momentum 0.996" in judge(lines_with([2.0] * 6), grace=20, remedies=mixed).next_step


@pytest.mark.parametrize("name", recipe_names())
def test_every_remedy_of_a_recipe_is_one_the_program_takes(name):
    follows_the_images = name.startswith(("hjepa", "demo", "ijepa-small"))
    start = {"data.image_size": "28", "model.patch_size": "4"} if follows_the_images else {}
    layers = [read_recipe(name), read_options([word for k, v in start.items() for word in (f"--{k}", v)])]
    remedies = Remedies(by_name(resolve(layers).config))
    words = " ".join([remedies.slower_target(), remedies.clip(), remedies.varied_crops(), remedies.smaller_targets()])
    for setting, value in re.findall(r"--(\S+) ([\d.,]+)", words):
        together = re.findall(r"--(\S+) ([\d.,]+)", remedies.smaller_targets()) if "masking" in setting else []
        given = [word for pair in {(setting, value), *together} for word in (f"--{pair[0]}", pair[1])]
        changed = resolve([*layers, read_options(given)])
        assert changed.origin[setting] == "command line"
        build_sampler(changed.config).sample(0, 2)


def test_a_finished_run_is_not_told_to_wait():
    assert judge(lines_with([0.5]), grace=60, remedies=Remedies({}, 40)).next_step == "keep training"
    finished = judge(lines_with([0.5, 0.5]), grace=60, remedies=Remedies({}, 40))
    assert re.search(r"train longer.*hjepa pretrain DATA --out RUN --resume --extend-to 120\b", finished.next_step)


def test_health_remembers_what_it_needs_only():
    health = Health(grace=60)
    for step in range(1000):
        health.add(SOUND | {"step": step})
    assert [line["step"] for line in health.history] == list(range(800, 1000))


def test_features_that_are_not_finite_have_no_rank():
    features = torch.randn(8, 4)
    features[3, 1] = torch.nan
    assert math.isnan(effective_rank(features))
