"""What features know of images: on features whose answer is known, and on runs."""

import math

import pytest
import torch
from conftest import TINY
from runs import pictures

import hjepa
from hjepa.training.content import NOT_MEASURED, Content, content, describe_images, error_of_change

N, D = 400, 24


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_features_that_hold_the_descriptions_know_nearly_all():
    described = normal(N, 6)
    features = torch.cat([described, 0.01 * normal(N, D, seed=1)], dim=1)
    known = content(features, [described])
    assert known.linear.value > 0.99
    assert known.neighbours.value > 0.6  # the mean of ten neighbours is not the image itself


def test_features_of_other_images_know_nothing():
    known = content(normal(N, D, seed=1), [normal(N, 6)])
    assert abs(known.linear.value) < 3 * known.linear.error + 0.02
    assert abs(known.neighbours.value) < 3 * known.neighbours.error + 0.02


def test_spreading_features_over_noise_takes_neighbours_away_and_leaves_rank():
    """What the variance-covariance term did to photographs: rank rose to 95 of 128, k-NN fell below the start."""
    described = normal(N, 6)
    known = content(described, [described])
    spread = content(torch.cat([described, 3.0 * normal(N, 60, seed=2)], dim=1), [described])
    assert spread.neighbours.value < 0.5 * known.neighbours.value
    assert spread.linear.value < known.linear.value


def test_a_linear_map_does_not_care_how_features_are_scaled_or_shifted():
    described, features = normal(N, 6), normal(N, D, seed=1)
    features[:, :6] += described
    other = 100.0 * features * torch.linspace(0.1, 3.0, D) + 7.0
    assert content(other, [described]).linear.value == pytest.approx(
        content(features, [described]).linear.value, abs=1e-4
    )


def test_each_description_counts_the_same_whatever_its_size_and_forgetting_one_is_no_gain():
    """Gradients alone would not have noticed that a run forgot the colours."""
    gradients, colours = normal(N, 6), normal(N, 6, seed=1)
    described = [100.0 * gradients, 0.01 * colours]
    both = content(torch.cat([gradients, colours], dim=1), described)
    for features in (gradients, colours):
        known = content(features, described)
        assert known.linear.value < 0.2 * both.linear.value
        assert known.neighbours.value < 0.5 * both.neighbours.value
    faint = content(torch.cat([gradients, 0.01 * colours + 0.01 * normal(N, 6, seed=2)], dim=1), described)
    assert faint.linear.value == pytest.approx((1.0 * 0.5) ** 0.5, abs=0.05)  # all of one, half of the other


@pytest.mark.parametrize(
    ("features", "described"),
    [
        (torch.ones(N, D), normal(N, 6)),
        (normal(N, D), torch.ones(N, 6)),
        (normal(N, D).fill_(math.nan), normal(N, 6)),
        (normal(31, D), normal(31, 6)),
    ],
)
def test_what_is_all_alike_or_too_few_or_broken_is_not_measured(features, described):
    assert content(features, [described]) is NOT_MEASURED


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 28, 28), (3, 30, 44), (3, 200, 96), (4, 2, 3)])
def test_descriptions_of_any_size_and_gradients_whatever_the_light(shape):
    images = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    found = describe_images(20.0 * images)
    assert all(len(one) == 5 and one.isfinite().all() for one in found)
    assert found.gradients.shape[1] % (9 * shape[0]) == 0 and found.colours.shape[1] % shape[0] == 0
    assert torch.allclose(found.gradients, describe_images(40.0 * images + 5.0).gradients, atol=0.05)


def test_the_change_is_known_better_than_either_value():
    """On the same images, most of what varies from image to image is common to both measurements."""
    described, noise = normal(N, 6), normal(N, D, seed=1)
    start = content(torch.cat([described, noise], dim=1), [described])
    now = content(torch.cat([described, 0.9 * noise], dim=1), [described])
    for way in ("linear", "neighbours"):
        one, other = getattr(now, way), getattr(start, way)
        assert 0 <= error_of_change(one, other) < 0.5 * (one.error**2 + other.error**2) ** 0.5
    assert error_of_change(start.linear, start.linear) == 0
    assert math.isnan(error_of_change(start.linear, NOT_MEASURED.linear))


def test_the_error_of_a_change_is_what_other_images_would_give():
    """The spread over fresh samples of images, of a change that is the same in all of them."""
    changes, errors = [], []
    for seed in range(30):
        described, noise = normal(N, 6, seed=seed), normal(N, 6, seed=1000 + seed)
        start, now = content(described + 2.0 * noise, [described]), content(described + noise, [described])
        changes.append([getattr(now, way).value - getattr(start, way).value for way in Content._fields])
        errors.append([error_of_change(getattr(now, way), getattr(start, way)) for way in Content._fields])
    spread = torch.tensor(changes).std(0)
    ratio = torch.tensor(errors).mean(0) / spread
    assert ((ratio > 0.5) & (ratio < 2.0)).all()


def content_lines(run: hjepa.Run) -> list[dict[str, float]]:
    return [{name: value for name, value in line.items() if name.startswith("content_")} for line in run.metrics]


def test_a_run_logs_what_its_features_know_and_what_they_knew_before_training(tmp_path):
    train = TINY["train"] | {"length": 60, "log_every": 10}
    run = hjepa.pretrain(pictures(), out=tmp_path / "run", **(TINY | {"train": train}))
    lines = content_lines(run)
    assert len({line["content_linear_at_start"] for line in lines}) == 1
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert [line["content_step"] for line in lines] == [10, 20, 30, 30, 50, 60]  # each half as much again, and the end


def test_what_was_known_before_training_is_of_the_untrained_encoder(tmp_path):
    """A learning rate of nearly nothing: what is known at the end is what was known at the start."""
    train = TINY["train"] | {"length": 60, "log_every": 10}
    still = {"lr": 1e-12, "start_lr": 1e-12, "final_lr": 1e-12, "batch_size": 8}
    run = hjepa.pretrain(pictures(64), out=tmp_path / "run", **(TINY | {"train": train, "optim": still}))
    last = run.metrics[-1]
    for way in ("linear", "neighbours"):
        assert last[f"content_{way}"] == pytest.approx(last[f"content_{way}_at_start"], abs=1e-5)
    assert run.verdict.verdict != "healthy"


@pytest.mark.slow
def test_a_resumed_run_compares_with_the_same_start(tmp_path):
    train = TINY["train"] | {"length": 60, "log_every": 10, "checkpoint_every": 20}
    whole = hjepa.pretrain(pictures(), out=tmp_path / "whole", **(TINY | {"train": train}))

    class Stop(hjepa.TrainingCallback):
        def on_line(self, line, total_steps):
            if line["step"] == 30:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        hjepa.pretrain(pictures(), out=tmp_path / "run", callback=Stop(), **(TINY | {"train": train}))
    resumed = hjepa.pretrain(pictures(), out=tmp_path / "run", resume=True)
    assert content_lines(resumed) == content_lines(whole)
