"""Random masks: whole, fair, reproducible by row, and refused where they cannot be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hjepa.errors import UserError
from hjepa.masking import MaskSettings, RandomPatchSampler, coverage

SPARSE = MaskSettings(num_targets=1, context_scale=(0.3, 0.3), target_scale=(0.7, 0.7))


@given(
    st.integers(2, 15),
    st.integers(2, 15),
    st.integers(0, 1000),
    st.integers(1, 20),
    st.integers(1, 5),
    st.floats(0.05, 0.5),
    st.floats(0.05, 0.5),
)
@settings(max_examples=60, deadline=None)
def test_masks_are_whole_and_rows_are_those_of_the_batch(height, width, step, batch, blocks, seen, hidden):
    shares = MaskSettings(num_targets=blocks, context_scale=(seen / 2, seen), target_scale=(hidden / 2, hidden))
    sampler = RandomPatchSampler((height, width), shares, seed=3)
    masks = sampler.sample(step, batch)
    assert masks.targets.shape[:2] == (batch, blocks)
    for context, targets in zip(masks.context, masks.targets, strict=True):
        assert len(set(context)) == len(context) and list(context) == sorted(context)
        assert all(len(set(target)) == len(target) and list(target) == sorted(target) for target in targets)
        assert not set(context) & set(targets.ravel())
        every = [*context, *targets.ravel()]
        assert min(every) >= 0 and max(every) < height * width
        free = height * width - len(context)
        assert len(set(targets.ravel())) == min(free, targets.size)  # none is predicted twice before all are once
    part = RandomPatchSampler((height, width), shares, seed=3).sample(step, batch, slice(1, None, 3))
    np.testing.assert_array_equal(part.context, masks.context[1::3])
    np.testing.assert_array_equal(part.targets, masks.targets[1::3])


def test_every_patch_is_as_likely_as_any_other():
    measured = coverage(RandomPatchSampler((7, 7), SPARSE), (7, 7), steps=100, batch=128)
    # 12,800 images: a patch's share has a standard error of 0.004; four of them, for the worst of 49 patches.
    np.testing.assert_allclose(measured.context, 14 / 49, atol=0.016)
    np.testing.assert_allclose(measured.target, 34 / 49, atol=0.016)
    assert measured.context_tokens_range == (14, 14) and measured.target_tokens_range == (34, 34)


def test_shares_are_drawn_once_a_step():
    ranges = MaskSettings(num_targets=2, context_scale=(0.2, 0.5), target_scale=(0.1, 0.4))
    measured = coverage(RandomPatchSampler((10, 10), ranges), (10, 10), steps=200, batch=4)
    assert measured.context_tokens_range[0] <= 22 and measured.context_tokens_range[1] >= 47
    assert measured.target_tokens_range[0] <= 12 and measured.target_tokens_range[1] >= 37


def test_seeds_and_steps_draw_different_masks():
    first = RandomPatchSampler((7, 7), SPARSE, seed=0).sample(0, 8).context
    assert not np.array_equal(first, RandomPatchSampler((7, 7), SPARSE, seed=1).sample(0, 8).context)
    assert not np.array_equal(first, RandomPatchSampler((7, 7), SPARSE, seed=0).sample(1, 8).context)
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize("grid", [(7, 9), (7, 7), (2, 2), (1 + 2, 17)])
def test_shares_that_add_up_to_one_fit_on_every_grid(grid):
    for seen in np.arange(0.3, 0.71, 0.01):
        shares = MaskSettings(num_targets=1, context_scale=(seen, seen), target_scale=(1 - seen, 1 - seen))
        masks = RandomPatchSampler(grid, shares).sample(0, 2)
        assert masks.context.shape[1] + masks.targets.shape[2] >= grid[0] * grid[1] - 1


def test_a_share_is_not_one_patch_less_because_of_floats():
    shares = MaskSettings(num_targets=1, context_scale=(0.3, 0.3), target_scale=(0.7, 0.7))  # 0.7 * 6 * 5 < 21
    masks = RandomPatchSampler((6, 5), shares).sample(0, 1)
    assert (masks.context.shape[1], masks.targets.shape[2]) == (9, 21)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"masking\.context_scale.*\b41\b.*\b7\b.* on a 6x7 grid"):
        RandomPatchSampler((6, 7), MaskSettings(context_scale=(0.9, 0.99), target_scale=(0.1, 0.17)))
    with pytest.raises(UserError, match=r"min_context = 4 .*\b3\b.* on a 6x6 grid"):
        RandomPatchSampler((6, 6), MaskSettings(context_scale=(0.1, 0.3), target_scale=(0.1, 0.2), min_context=4))
    with pytest.raises(UserError, match="too small for masks"):
        RandomPatchSampler((1, 9))
