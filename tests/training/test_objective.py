"""The variance-covariance term: formula, what it sees, and that it stays out of the logged loss."""

import numpy as np
import pytest
import torch
from conftest import tiny
from hypothesis import given
from hypothesis import strategies as st
from runs import same, trainer_of, weights

from hjepa.training.objective import (
    context_variance_covariance,
    levels_loss,
    variance_covariance,
    without_position,
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_formula_against_numpy():
    features = 0.6 * drawn(40, 5)
    covariance = np.cov(features.numpy(), rowvar=False)
    variance = np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)).mean()
    off_diagonal = covariance - np.diag(np.diag(covariance))
    assert float(variance_covariance(features)) == pytest.approx(variance + (off_diagonal**2).sum() / 5, rel=1e-12)


def test_it_is_small_for_spread_independent_features_and_large_for_equal_ones():
    assert float(variance_covariance(1.5 * drawn(40_000, 6))) < 0.01
    assert float(variance_covariance(torch.ones(100, 6))) == pytest.approx(0.99)
    one_direction = 1.5 * drawn(4000, 1).expand(-1, 6)
    assert float(variance_covariance(one_direction)) > 20


@given(st.integers(2, 8), st.integers(1, 6), st.integers(0, 10_000))
def test_tokens_that_say_where_only_are_nothing_without_their_position(images, visible, seed):
    rng = np.random.default_rng(seed)
    patches = torch.from_numpy(np.stack([rng.permutation(6)[:visible] for _ in range(images)]))
    where = drawn(6, 3, seed=seed)
    assert without_position(where[patches], patches, 6).abs().max() < 1e-12
    tokens = drawn(images, visible, 3, seed=seed + 1)
    torch.testing.assert_close(
        without_position(tokens + where[patches], patches, 6), without_position(tokens, patches, 6), rtol=0, atol=1e-12
    )


def test_a_step_minimises_it_and_logs_the_loss_of_the_predictions_apart():
    trainer, batches, config = trainer_of(tiny(loss={"variance_covariance": 0.5}, train={"precision": "float64"}))
    (batch,) = next(batches)
    with torch.no_grad():
        forward = trainer.model(*batch)
    prediction = levels_loss(forward, config.loss.kind, (1.0,))
    term = context_variance_covariance(forward.context, batch.context_index, 16)
    context, index = forward.context.float().flatten(0, 1).numpy(), batch.context_index.flatten().numpy()
    apart = context.copy()
    for place in np.unique(index):
        apart[index == place] -= context[index == place].mean(0)
    by_hand = variance_covariance(torch.from_numpy(apart))
    assert float(term) == pytest.approx(float(by_hand), rel=1e-4)
    result = trainer.train_step([batch])
    assert result.loss == pytest.approx(float(prediction), rel=1e-10)
    assert result.regulariser == pytest.approx(trainer.schedules.variance_covariance(0) * float(term), rel=1e-10)
    for _ in range(9):
        last = trainer.train_step(next(batches))
    assert last.regulariser < 0.2 * result.regulariser  # its weight falls over the 12 steps, to nothing
    assert [round(trainer.schedules.variance_covariance(step), 3) for step in (0, 5, 11)] == [0.491, 0.25, 0.0]


def test_without_a_weight_nothing_changes():
    ends = []
    for weight in (0.0, 0.3):
        trainer, batches, _ = trainer_of(tiny(loss={"variance_covariance": weight}))
        result = trainer.train_step(next(batches))
        assert (result.regulariser == 0.0) == (weight == 0.0)
        ends.append(weights(trainer.model))
    plain, batches, _ = trainer_of(tiny())
    plain.train_step(next(batches))
    assert same(ends[0], weights(plain.model))
    assert not same(ends[1], weights(plain.model))
