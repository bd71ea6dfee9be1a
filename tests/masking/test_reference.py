"""The numbers expected are those computed by others for the published sampler, from its description."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hjepa.errors import UserError
from hjepa.masking import MaskSettings, ReferenceSampler, coverage

STEPS = range(150)


def shares(sampler: ReferenceSampler, batch: int) -> tuple[float, float]:
    """Return the mean share of patches in the context before and after the cut to the shortest."""
    before, after = [], []
    for step in STEPS:
        visible, _ = sampler.before_cut(step, batch)
        before.append(visible.mean())
        after.append(sampler.sample(step, batch).context.shape[1] / visible.shape[1])
    return float(np.mean(before)), float(np.mean(after))


@pytest.mark.parametrize(
    ("grid", "before", "after"), [((14, 14), 0.422, 0.260), ((8, 8), 0.339, 0.177), ((16, 16), 0.433, 0.270)]
)
def test_context_share_is_the_published_one(grid, before, after):
    measured = shares(ReferenceSampler(grid), 128)
    np.testing.assert_allclose(measured, [before, after], atol=0.01)


@pytest.mark.parametrize(("batch", "after"), [(32, 0.300), (256, 0.261)])
def test_batch_size_sets_the_context_size(batch, after):
    assert shares(ReferenceSampler((16, 16)), batch)[1] == pytest.approx(after, abs=0.01)


@pytest.mark.parametrize(("grid", "dead"), [((14, 14), 27), ((8, 8), 15), ((16, 16), 31)])
def test_last_row_and_column_are_never_used(grid, dead):
    measured = coverage(ReferenceSampler(grid), grid, steps=150, batch=128)
    unused = (measured.context == 0) & (measured.target == 0)
    assert unused.sum() == dead
    assert unused[-1].all()
    assert unused[:, -1].all()


def test_top_of_the_image_is_seen_and_the_bottom_is_not():
    rows = coverage(ReferenceSampler((16, 16)), (16, 16), steps=150, batch=128).context.mean(axis=1)
    assert rows[0] == pytest.approx(0.77, abs=0.02)
    assert 0.005 < rows[14] < 0.03  # others computed 2.7 % without a batch size: this is 1.5 % at 128, 2.8 % at 64


def test_union_of_targets_is_the_published_one():
    measured = coverage(ReferenceSampler((16, 16)), (16, 16), steps=150, batch=128)
    assert measured.target_union / 256 == pytest.approx(0.446, abs=0.01)


@given(st.integers(8, 24), st.integers(8, 24), st.integers(0, 1000), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_masks_are_whole_and_rows_are_those_of_the_batch(height, width, step, batch):
    grid = (height, width)
    sampler = ReferenceSampler(grid, seed=3)
    whole = sampler.sample(step, batch)
    assert whole.context.dtype == whole.targets.dtype == np.int64
    assert whole.context.shape[0] == whole.targets.shape[0] == batch
    assert whole.targets.shape[1] == 4
    assert whole.context.shape[1] > 4
    assert (np.diff(whole.context, axis=1) > 0).all()
    for patches in (whole.context, whole.targets):
        assert patches.min() >= 0
        assert (patches // width).max() < height - 1
        assert (patches % width).max() < width - 1
    part = ReferenceSampler(grid, seed=3).sample(step, batch, slice(1, None, 3))
    np.testing.assert_array_equal(part.context, whole.context[1::3])
    np.testing.assert_array_equal(part.targets, whole.targets[1::3])


def test_cut_keeps_the_lowest_indices():
    sampler = ReferenceSampler((14, 14))
    visible, targets = sampler.before_cut(5, 64)
    masks = sampler.sample(5, 64)
    np.testing.assert_array_equal(masks.targets, targets)
    for image in range(64):
        np.testing.assert_array_equal(masks.context[image], np.flatnonzero(visible[image])[: masks.context.shape[1]])
    assert masks.context.shape[1] == visible.sum(axis=1).min()


def test_targets_are_forgiven_from_the_last_when_too_little_stays_visible():
    # The context block has only one place, so how many targets can be kept out is known for each image.
    crowded = MaskSettings(target_scale=(0.35, 0.35), target_aspect=(1, 1), context_scale=(0.9, 0.9))
    visible, targets = ReferenceSampler((14, 14), crowded, min_keep=63).before_cut(0, 200)
    kept_out = []
    for image in range(200):
        for count in range(4, -1, -1):
            expected = np.zeros((14, 14), dtype=np.bool_)
            expected[:13, :13] = True
            expected.ravel()[targets[image, :count].ravel()] = False
            if expected.sum() > 63:
                break
        kept_out.append(count)
        np.testing.assert_array_equal(visible[image], expected.ravel())
    assert {3, 4} <= set(kept_out)


def test_context_is_drawn_again_before_a_target_is_forgiven():
    roomy = MaskSettings(num_targets=1, target_scale=(0.25, 0.25), target_aspect=(1, 1), context_scale=(0.25, 0.25))
    visible, targets = ReferenceSampler((12, 12), roomy, min_keep=20).before_cut(0, 300)
    assert visible.sum(axis=1).min() > 20
    assert not np.take_along_axis(visible, targets[:, 0], axis=1).any()
    rows = visible.reshape(300, 12, 12).any(axis=2)
    assert max(np.ptp(np.flatnonzero(image)) for image in rows) == 5  # of the last 6x6 block drawn, and no other


@pytest.mark.parametrize(
    ("grid", "changes", "min_keep", "message"),
    [
        (
            (8, 8),
            {},
            10,
            r"masking\.min_keep = 10 .*masking\.target_scale .* 9 patches on an? 8x8 grid.* 8$",
        ),
        (
            (14, 14),
            {"context_scale": (0.01, 0.03)},
            4,
            r"masking\.min_keep = 4 .*masking\.context_scale .* 1 patch.* on a 14x14 grid.* larger scale or grid$",
        ),
        (
            (14, 14),
            {"target_scale": (0.001, 0.2)},
            4,
            r"masking\.min_keep = 4 .*masking\.target_scale .* 0 patches on a 14x14 grid.* larger scale or grid$",
        ),
    ],
)
def test_what_would_never_end_is_refused(grid, changes, min_keep, message):
    with pytest.raises(UserError, match=message):
        ReferenceSampler(grid, MaskSettings(**changes), min_keep=min_keep)


def test_the_proposed_min_keep_is_possible():
    assert ReferenceSampler((8, 8), min_keep=8).sample(0, 64).context.shape[1] > 8
