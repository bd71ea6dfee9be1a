import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hjepa.errors import UserError
from hjepa.masking import Masks, MaskSettings, MultiBlockSampler, ReferenceSampler, coverage
from hjepa.masking.multiblock import block_sizes, choose, most_visible, most_visible_of_sizes

GRIDS = st.tuples(st.integers(2, 32), st.integers(2, 32))
STEPS = st.integers(0, 2**40)
SEEDS = st.integers(0, 2**40)


def pairs(low: float, high: float) -> st.SearchStrategy[tuple[float, float]]:
    return st.tuples(st.floats(low, high), st.floats(low, high)).map(lambda pair: (min(pair), max(pair)))


SETTINGS = st.builds(
    MaskSettings,
    num_targets=st.integers(1, 6),
    target_scale=pairs(0.01, 0.6),
    target_aspect=pairs(0.2, 5),
    context_scale=pairs(0.3, 1),
    min_context=st.integers(1, 3),
)


def possible_sampler(grid: tuple[int, int], mask_settings: MaskSettings, seed: int = 0) -> MultiBlockSampler:
    """Return the sampler, or tell hypothesis to look elsewhere when the settings cannot be met."""
    try:
        return MultiBlockSampler(grid, mask_settings, seed=seed)
    except UserError:
        assume(False)
        raise


def is_rectangle(blocks: np.ndarray, grid: tuple[int, int]) -> bool:
    """Say whether all blocks [..., T] are rectangles of one size inside the grid, in row-major order."""
    rows, columns = np.divmod(blocks, grid[1])
    height, width = np.ptp(rows, axis=-1).max() + 1, np.ptp(columns, axis=-1).max() + 1
    if height * width != blocks.shape[-1]:
        return False
    offsets = (np.arange(height)[:, None] * grid[1] + np.arange(width)).ravel()
    fits = (rows[..., 0] + height <= grid[0]) & (columns[..., 0] + width <= grid[1])
    return bool((blocks - blocks[..., :1] == offsets).all() and fits.all())


def assert_sound(masks: Masks, grid: tuple[int, int], mask_settings: MaskSettings, batch: int) -> None:
    context, targets = masks.context, masks.targets
    assert context.dtype == targets.dtype == np.int64
    assert context.shape[0] == targets.shape[0] == batch
    assert targets.shape[1] == mask_settings.num_targets
    assert context.shape[1] >= mask_settings.min_context
    assert (np.diff(context, axis=1) > 0).all()
    assert context.min() >= 0
    assert context.max() < grid[0] * grid[1]
    assert is_rectangle(targets, grid)
    assert not (context[:, :, None] == targets.reshape(batch, 1, -1)).any()


@given(GRIDS, SEEDS, STEPS, st.integers(1, 40))
@settings(max_examples=80, deadline=None)
def test_default_masks_are_sound_on_every_grid(grid, seed, step, batch):
    masks = MultiBlockSampler(grid, seed=seed).sample(step, batch)
    assert_sound(masks, grid, MaskSettings(), batch)


@given(GRIDS, SETTINGS, SEEDS, STEPS, st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_masks_of_any_possible_settings_are_sound(grid, mask_settings, seed, step, batch):
    masks = possible_sampler(grid, mask_settings, seed).sample(step, batch)
    assert_sound(masks, grid, mask_settings, batch)


@given(GRIDS, SEEDS, STEPS)
@settings(max_examples=40, deadline=None)
def test_masks_are_a_pure_function_of_seed_and_step(grid, seed, step):
    used, fresh = MultiBlockSampler(grid, seed=seed), MultiBlockSampler(grid, seed=seed)
    for other in range(3):
        used.sample(other, 5)
    first, second = used.sample(step, 9), fresh.sample(step, 9)
    np.testing.assert_array_equal(first.context, second.context)
    np.testing.assert_array_equal(first.targets, second.targets)


def test_other_seeds_and_steps_give_other_masks():
    def targets(seed: int, step: int) -> bytes:
        return MultiBlockSampler((14, 14), seed=seed).sample(step, 4).targets.tobytes()

    assert len({targets(seed, step) for seed in range(4) for step in range(5)}) == 20


@given(GRIDS, SETTINGS, STEPS, st.integers(1, 50), st.data())
@settings(max_examples=60, deadline=None)
def test_any_split_into_processes_gives_the_rows_of_the_whole(grid, mask_settings, step, batch, data):
    sampler = possible_sampler(grid, mask_settings)
    whole = sampler.sample(step, batch)
    cuts = sorted(data.draw(st.lists(st.integers(0, batch), max_size=4)))
    bounds = itertools.pairwise([0, *cuts, batch])
    parts = [sampler.sample(step, batch, slice(start, stop)) for start, stop in bounds]
    np.testing.assert_array_equal(np.concatenate([part.context for part in parts]), whole.context)
    np.testing.assert_array_equal(np.concatenate([part.targets for part in parts]), whole.targets)
    strided = sampler.sample(step, batch, slice(1, None, 2))
    np.testing.assert_array_equal(strided.context, whole.context[1::2])
    np.testing.assert_array_equal(strided.targets, whole.targets[1::2])


@given(GRIDS, SETTINGS, STEPS)
@settings(max_examples=60, deadline=None)
def test_batch_size_changes_neither_counts_nor_images(grid, mask_settings, step):
    sampler = possible_sampler(grid, mask_settings)
    large = sampler.sample(step, 64)
    for batch in (1, 7):
        small = sampler.sample(step, batch)
        np.testing.assert_array_equal(small.context, large.context[:batch])
        np.testing.assert_array_equal(small.targets, large.targets[:batch])


@pytest.mark.parametrize("grid", [(2, 2), (2, 9), (3, 7), (7, 3), (8, 8), (14, 14), (32, 32)])
def test_every_patch_is_context_and_target(grid):
    measured = coverage(MultiBlockSampler(grid), grid, steps=60, batch=128)
    assert measured.context_coverage_min > 0.02
    assert measured.target_coverage_min > 0.002
    assert measured.target[-1].min() > 0.002
    assert measured.target[:, -1].min() > 0.002


def test_positions_are_uniform_with_the_last_row_and_column():
    fixed = MaskSettings(target_scale=(0.18, 0.18), target_aspect=(1, 1), num_targets=1)  # 6x6, 9x9 places
    sampler = MultiBlockSampler((14, 14), fixed)
    corners = np.concatenate([sampler.sample(step, 256).targets[:, :, 0].ravel() for step in range(40)])
    counts = np.bincount(corners, minlength=196).reshape(14, 14)
    expected = len(corners) / 81
    assert counts[9:].sum() == counts[:, 9:].sum() == 0
    assert np.abs(counts[:9, :9] - expected).max() < 5 * np.sqrt(expected)


def drawn_sizes(sampler: MultiBlockSampler | ReferenceSampler, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return area and height / width of the target blocks of 500 steps."""
    area, aspect = [], []
    for step in range(500):
        block = sampler.sample(step, 1).targets[0, 0]
        height = np.ptp(block // width) + 1
        area.append(len(block))
        aspect.append(height**2 / len(block))
    return np.array(area), np.array(aspect)


def test_scale_and_aspect_are_drawn_independently_over_their_whole_range():
    area, aspect = drawn_sizes(MultiBlockSampler((32, 32)), 32)
    assert abs(np.corrcoef(area, aspect)[0, 1]) < 0.15
    assert 0.135 < area.min() / 1024 < 0.155  # the ends of (0.15, 0.2), but for rounding to patches
    assert 0.195 < area.max() / 1024 < 0.215
    assert 0.7 < aspect.min() < 0.8
    assert 1.4 < aspect.max() < 1.65
    assert np.corrcoef(*drawn_sizes(ReferenceSampler((32, 32)), 32))[0, 1] > 0.8


def test_surplus_patches_are_dropped_without_regard_to_their_index():
    measured = coverage(MultiBlockSampler((14, 14)), (14, 14), steps=100, batch=256)
    assert np.abs(measured.context - measured.context[::-1]).max() < 0.03
    assert np.abs(measured.context - measured.context[:, ::-1]).max() < 0.03


def test_choose_takes_each_visible_patch_equally_often():
    words = np.random.default_rng(0).integers(2**32, size=(40_000, 10), dtype=np.uint32)
    visible = np.ones((40_000, 10), dtype=np.bool_)
    visible[:, [2, 9]] = False
    chosen = np.bincount(choose(visible, words, 3).ravel(), minlength=10)
    assert chosen[[2, 9]].sum() == 0
    np.testing.assert_allclose(chosen[[0, 1, 3, 4, 5, 6, 7, 8]], 15_000, atol=500)


def test_visible_count_is_that_of_the_block_sizes():
    sampler = MultiBlockSampler((14, 14), replace(MaskSettings(), context_scale=(1, 1)))
    counts: dict[int, set[int]] = {}
    for step in range(300):
        masks = sampler.sample(step, 3)
        height = int(np.ptp(masks.targets[0, 0] // 14)) + 1
        counts.setdefault(100 * height + masks.targets.shape[2], set()).add(masks.context.shape[1])
    assert len(counts) > 5
    assert all(len(of_size) == 1 for of_size in counts.values())


@pytest.mark.parametrize("grid", [(2, 2), (3, 4)])
def test_opposite_corners_leave_the_most_patches(grid):
    """Every size of context and target, every placement of both, counted by hand."""
    cells = list(itertools.product(range(grid[0]), range(grid[1])))

    def placements(size: tuple[int, int]) -> list[set[tuple[int, int]]]:
        rows, columns = range(grid[0] - size[0] + 1), range(grid[1] - size[1] + 1)
        return [
            {(y, x) for y, x in cells if top <= y < top + size[0] and left <= x < left + size[1]}
            for top, left in itertools.product(rows, columns)
        ]

    sizes = list(itertools.product(*(range(1, side + 1) for side in grid)))
    for context, target in itertools.product(sizes, repeat=2):
        best = max(len(seen - hidden) for seen in placements(context) for hidden in placements(target))
        assert most_visible_of_sizes(grid, np.array([context]), np.array([target])) == best


@pytest.mark.parametrize("grid", [(2, 2), (5, 9), (14, 14)])
def test_largest_possible_min_context_is_reached_by_every_image(grid):
    tightest = MaskSettings(min_context=most_visible(grid, MaskSettings()))
    sampler = MultiBlockSampler(grid, tightest)
    for step in range(20):
        assert_sound(sampler.sample(step, 64), grid, tightest, 64)


def test_last_resort_uses_all_four_corners():
    large = {"target_scale": (0.88, 0.88), "context_scale": (0.88, 0.88), "target_aspect": (1, 1)}  # 13x13
    only_opposite_corners = MaskSettings(**large, min_context=25)
    masks = MultiBlockSampler((14, 14), only_opposite_corners).sample(0, 400)
    corners, counts = np.unique(masks.targets[:, :, 0], return_counts=True)
    np.testing.assert_array_equal(corners, [0, 1, 14, 15])
    assert counts.min() > 0.15 * counts.sum()


@pytest.mark.parametrize("grid", [(3, 7), (7, 3), (4, 32), (32, 4)])
def test_an_oblong_grid_keeps_the_scale(grid):
    assert (block_sizes(grid, (1, 1), (1, 1)) == grid).all()
    areas = block_sizes(grid, (0.85, 1.0), (1.0, 1.0)).prod(axis=-1)
    assert areas.min() >= (0.85 * max(grid) - 0.5) * min(grid)


def test_aspect_is_height_over_width():
    np.testing.assert_array_equal(block_sizes((14, 14), (0.2, 0.2), (0.75, 0.75))[0, 0], [5, 7])


SHARES = r".*0 < low <= high <= 1$"
ERRORS = [  # what was asked for, and the setting, the value and the nearest possible that the message has to name
    (
        {"target_scale": (0.95, 1.0)},
        r"masking\.target_scale = \(0\.95, 1\.0\).* 14x14 .*nearest possible is \(0\.929, 0\.929\)$",
    ),
    (
        {"target_scale": (0.3, 1.0)},
        r"masking\.target_scale = \(0\.3, 1\.0\).* 14x14 .*nearest possible is \(0\.3, 0\.929\)$",
    ),
    (
        {"target_scale": (0.95, 1.0), "min_context": 150},
        r"masking\.target_scale = \(0\.95, 1\.0\).*\(0\.929, 0\.929\) with masking\.min_context = 13$",
    ),
    ({"min_context": 140}, r"masking\.min_context = 140 .* 14x14 .*largest possible is 139$"),
    ({"min_context": 0}, r"masking\.min_context = 0 .*smallest possible is 1$"),
    ({"num_targets": 0}, r"masking\.num_targets = 0 .*smallest possible is 1$"),
    ({"target_scale": (0, 0.2)}, r"masking\.target_scale = \(0, 0\.2\)" + SHARES),
    ({"target_scale": (0.3, 0.2)}, r"masking\.target_scale = \(0\.3, 0\.2\)" + SHARES),
    ({"context_scale": (0.85, 1.2)}, r"masking\.context_scale = \(0\.85, 1\.2\)" + SHARES),
    ({"target_aspect": (0, 1.5)}, r"masking\.target_aspect = \(0, 1\.5\).*height / width, 0 < low <= high$"),
    (
        {"target_aspect": (float("nan"), 1.5)},
        r"masking\.target_aspect = \(nan, 1\.5\).*height / width, 0 < low <= high$",
    ),
]


@pytest.mark.parametrize(("changes", "message"), ERRORS)
def test_error_names_the_setting_and_the_nearest_possible(changes, message):
    with pytest.raises(UserError, match=message):
        MultiBlockSampler((14, 14), MaskSettings(**changes))


@pytest.mark.parametrize("grid", [(1, 14), (14, 1), (0, 0)])
def test_grid_below_2x2_is_refused(grid):
    with pytest.raises(UserError, match=rf"{grid[0]}x{grid[1]} grid is too small.*2x2$"):
        MultiBlockSampler(grid)


@given(GRIDS, pairs(0.3, 1), pairs(0.2, 5), pairs(0.1, 1), st.integers(1, 1200))
@settings(max_examples=50, deadline=None)
def test_proposed_settings_are_possible(grid, target_scale, target_aspect, context_scale, min_context):
    wanted = MaskSettings(
        target_scale=target_scale,
        target_aspect=target_aspect,
        context_scale=context_scale,
        min_context=min_context,
    )
    try:
        MultiBlockSampler(grid, wanted)
    except UserError as error:
        text = str(error)
    else:
        return
    if found := re.search(r"nearest possible is \((.*), (.*?)\)", text):
        wanted = replace(wanted, target_scale=(float(found[1]), float(found[2])))
    if found := re.search(r"largest possible is (\d+)|with masking.min_context = (\d+)", text):
        wanted = replace(wanted, min_context=int(found[1] or found[2]))
    assert_sound(MultiBlockSampler(grid, wanted).sample(0, 4), grid, wanted, 4)


@pytest.mark.parametrize("target_scale", [(0.3, 0.93), (0.93, 0.93)])
def test_nothing_nearer_than_the_proposed_scale_is_possible(target_scale):
    MultiBlockSampler((14, 14), MaskSettings(target_scale=(min(target_scale[0], 0.929), 0.929)))
    with pytest.raises(UserError):
        MultiBlockSampler((14, 14), MaskSettings(target_scale=target_scale))
