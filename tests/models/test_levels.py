"""Levels: cells on every grid, heads and targets of their own, and one level that is I-JEPA exactly."""

import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import metrics
from conftest import TINY, tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import pictures, trainer_of, weights
from torch import Tensor

import hjepa
from hjepa.errors import UserError
from hjepa.evaluation import extract
from hjepa.evaluation.levels import views_of
from hjepa.models.levels import Level, cell_grid, cell_of, level_cells, patch_gradients, patch_pixels, pool_cells

THREE = {"model": {"levels": [[0, 1], [1, 2], [2, 3]]}}  # pixels; a middle block in 2 x 2; the last in 3 x 3 cells

sides = st.integers(1, 12)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # other work on the machine
@given(height=sides, width=sides, stride=st.integers(1, 5), place=st.tuples(sides, sides))
def test_the_footprint_of_a_cell_is_exactly_its_square(height, width, stride, place):
    """An impulse at one patch moves one cell, the one that covers it, by one over the patches it has."""
    row, column = place[0] % height, place[1] % width
    impulse = torch.zeros(1, height * width, 1)
    impulse[0, row * width + column] = 1.0
    cells = pool_cells(impulse, (height, width), stride)[0, :, 0]
    rows, columns = cell_grid((height, width), stride)
    assert len(cells) == rows * columns
    at = (row // stride) * columns + column // stride
    members = min(stride, height - row // stride * stride) * min(stride, width - column // stride * stride)
    assert cells[at].item() == pytest.approx(1 / members)
    assert cells.nonzero().flatten().tolist() == [at]
    assert cell_of(torch.tensor([row * width + column]), (height, width), stride).tolist() == [at]


def test_patches_are_cut_as_the_encoder_cuts_them():
    """A convolution with one kernel per pixel of the patch reads the same numbers in the same order."""
    images = torch.randn(2, 3, 8, 12)
    pixels = patch_pixels(images, 4)
    assert pixels.shape == (2, 6, 48)
    for patch, (row, column) in enumerate((r, c) for r in range(2) for c in range(3)):
        square = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.equal(pixels[:, patch], square.flatten(1))


def test_the_pixel_level_is_normalised_pixels_of_each_patch():
    images = torch.randn(2, 3, 8, 8)
    cells = level_cells(Level(0), {}, images, (2, 2))
    torch.testing.assert_close(cells.mean(-1), torch.zeros(2, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(cells.std(-1, correction=0), torch.ones(2, 4), atol=1e-3, rtol=0)


def test_targets_are_the_averaged_tokens_of_their_depth_normalised_without_parameters():
    trainer, batches, _ = trainer_of(tiny(**THREE))
    (batch,) = next(batches)
    target = trainer.model.target_encoder.encoder
    with torch.no_grad():
        forward = trainer.model(*batch)
        tokens = target.embed(batch.images)
        first = target.vit.blocks[0](tokens)
        second = target.vit.norm(target.vit.blocks[1](first))
    for level, depth_tokens, stride in zip(forward.levels[1:], (first, second), (2, 3), strict=True):
        cells = by_hand(depth_tokens, stride)
        torch.testing.assert_close(level.cells, cells)
        for image, block, place in ((0, 0, 0), (3, 2, 1)):
            row, column = divmod(int(batch.target_index[image, block, place]), 4)
            at = row // stride * -(-4 // stride) + column // stride
            torch.testing.assert_close(level.targets[image, block, place], cells[image, at])
    torch.testing.assert_close(forward.pooled, second.mean(1))


def by_hand(tokens: Tensor, stride: int) -> Tensor:
    """Average the 4 x 4 grid with loops."""
    plane = tokens.unflatten(1, (4, 4))
    starts = range(0, 4, stride)
    cells = [plane[:, r : r + stride, c : c + stride].mean((1, 2)) for r in starts for c in starts]
    stacked = torch.stack(cells, dim=1)
    return F.layer_norm(stacked, stacked.shape[-1:])


def test_one_level_at_the_last_block_is_the_default_bit_for_bit():
    ends = []
    for chosen in ({}, {"model": {"levels": [[2, 1]]}}, {"model": {"levels": 2}}):
        trainer, batches, _ = trainer_of(tiny(**chosen))
        for _ in range(3):
            trainer.train_step(next(batches))
        ends.append(weights(trainer.model))
    assert all(torch.equal(ends[0][name], end[name]) for end in ends[1:] for name in ends[0])


def test_each_level_has_a_head_of_its_own_and_nothing_on_the_target_side_is_trained():
    trainer, batches, _ = trainer_of(tiny(**THREE))
    (batch,) = next(batches)
    head = trainer.model.predictor.predictor_proj
    assert head.out_features == 48 + 32 + 32
    forward = trainer.model(*batch)
    assert not any(t.requires_grad for level in forward.levels for t in (level.targets, level.cells))
    forward.levels[1].predictions.sum().backward()
    touched = head.weight.grad.abs().sum(1) > 0
    assert touched.tolist() == [False] * 48 + [True] * 32 + [False] * 32
    assert all(p.grad is None for p in trainer.model.target_encoder.parameters())


def test_weights_of_the_levels_are_those_asked_for():
    trainer, batches, config = trainer_of(tiny(**THREE, loss={"level_weights": [1, 0, 3]}))
    assert config.loss.level_weights == (1, 0, 3)
    (batch,) = next(batches)
    with torch.no_grad():
        losses = [float(F.smooth_l1_loss(level.predictions, level.targets)) for level in trainer.model(*batch).levels]
    assert trainer.train_step([batch]).loss == pytest.approx((losses[0] + 3 * losses[2]) / 4, rel=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = TINY | {"model": TINY["model"] | THREE["model"]}
    return hjepa.pretrain(pictures(), out=tmp_path_factory.mktemp("levels") / "run", **settings)


def test_a_run_measures_and_audits_every_level(run):
    for line in metrics(run.path):
        assert len(line["levels"]) == 3
        assert line["cross_sample_gap"] == line["levels"][2]["cross_sample_gap"]
        mean = sum(level["loss"] for level in line["levels"]) / 3
        assert line["loss"] == pytest.approx(mean, rel=1e-4)
        baseline = sum(level["loss_position_mean"] for level in line["levels"]) / 3
        assert line["relative_loss"] == pytest.approx(mean / baseline, rel=1e-4)
    assert run.record["audit"]["verdict"] == "conforms"


def test_a_resumed_run_with_levels_is_the_undisturbed_one(run, tmp_path):
    part = shutil.copytree(run.path, tmp_path / "part", symlinks=True)
    last = part / "checkpoints/last"
    last.unlink()
    last.symlink_to("step-00000010")
    hjepa.pretrain(pictures(), out=part, resume=True)
    assert metrics(part) == metrics(run.path)
    assert (part / "encoder.safetensors").read_bytes() == (run.path / "encoder.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"model\.levels"):
        hjepa.pretrain(pictures(), out=part, resume=True, model={"levels": [2]})


def test_the_encoder_hands_out_every_level(run):
    encoder = hjepa.load_encoder(run)
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    shapes = [tuple(level.shape) for level in encoder.levels(images)]
    assert shapes == [(5, 4, 4, 48), (5, 2, 2, 32), (5, 2, 2, 32)]
    wide = encoder.levels(torch.randint(0, 256, (2, 3, 20, 28), dtype=torch.uint8))
    assert [tuple(level.shape[1:3]) for level in wide] == [(5, 7), (3, 4), (2, 3)]
    torch.testing.assert_close(encoder.levels(images)[2].flatten(1, 2), by_hand(encoder(images).tokens, 3))


@pytest.mark.parametrize("level", ["0", "1", "2", "all", "last"])
def test_every_level_can_be_evaluated(run, level):
    source = "scenes:test"
    result = hjepa.evaluate(
        run, train=source, test=source, protocols=["knn"], poolings=["avg", "grid4"], level=level,
        max_train=60, max_test=30,
    )  # fmt: skip
    assert {row["level"] for row in result.to_json()["results"]} == {level}
    # Level 0 is pixels: the untrained encoder has the same, so it cannot say whether pretraining helped.
    assert ("Level 0" in result.conclusion) == (level == "0")
    assert ("retraining" in result.conclusion.replace("about pretraining", "")) == (level != "0")


class Five:
    """Five images as a labelled set without labels."""

    name = "five"

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def batches(self, batch_size):
        yield from self.images.split(batch_size)


@pytest.mark.parametrize(("levels", "parts"), [([[0, 1], [2, 2]], 2), ([[0, 1], [1, 2]], 3)])
def test_all_is_every_level_and_the_last_block_with_equal_weight(levels, parts, tmp_path):
    settings = TINY | {"model": TINY["model"] | {"levels": levels}, "train": TINY["train"] | {"length": 2}}
    encoder = hjepa.load_encoder(hjepa.pretrain(pictures(), out=tmp_path / "run", **settings))
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    by_level = [level.mean((1, 2)) for level in encoder.levels(images)]
    if parts > len(levels):  # none of the levels is of the last block
        by_level.append(encoder(images).pooled)
    lengths = [level / level.norm(dim=1, keepdim=True) for level in by_level]
    found = extract(views_of(encoder, "all"), Five(images), ["avg"])["avg"]
    torch.testing.assert_close(torch.from_numpy(found), torch.cat(lengths, 1))
    assert np.allclose((found**2).sum(1), parts)


def test_a_level_that_is_not_there_is_named(run):
    with pytest.raises(UserError, match=r"--level 3: .*0 \(depth 0, stride 1\), 1 .*last.*all"):
        hjepa.evaluate(run, train="scenes:train", test="scenes:test", level=3)
    with pytest.raises(UserError, match=r"last4.*--pooling avg or grid4.*--level last"):
        hjepa.evaluate(
            run, train="scenes:train", test="scenes:test", level=1, poolings=["last4"], max_train=50, max_test=20
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": {"levels": [3]}}, r"model\.levels has depth 3, and the encoder has model\.depth = 2 blocks: .* 0,2"),
        ({"model": {"levels": [[1, 0]]}}, "levels has stride 0"),
        ({"model": {"levels": [1, 1]}}, "one or more different levels"),
        ({"loss": {"level_weights": [1, 2]}}, "2 values for 1 levels"),
        ({"model": {"levels": [0, 1]}, "loss": {"level_weights": [0, 0]}}, "at least one must be positive"),
        ({"loss": {"level_warmup": 0.5}}, r"level_warmup = 0\.5 .*single one.*levels 0,2, or .*level_warmup 0$"),
        (
            {"model": {"levels": [0, 1]}, "loss": {"level_weights": [0, 1], "level_warmup": 0.5}},
            r"level_warmup = 0\.5 .*first level.*level_weights is 0.*level_warmup 0$",
        ),
        ({"model": {"levels": [0, 1]}, "loss": {"level_warmup": 1.5}}, r"loss\.level_warmup = 1\.5"),
    ],
)
def test_impossible_levels_end_in_one_line(settings, message):
    with pytest.raises(UserError, match=message):
        tiny(**settings)


def gradients_by_hand(image: Tensor, patch: int, parts: int) -> Tensor:
    """Histogram the gradients of one channel [H, W] with loops."""
    height, width = image.shape
    side = patch // parts
    votes = torch.zeros(height // side, width // side, 9)
    for y in range(height):
        for x in range(width):
            dx = float(image[y, min(x + 1, width - 1)] - image[y, max(x - 1, 0)])
            dy = float(image[min(y + 1, height - 1), x] - image[max(y - 1, 0), x])
            number = min(8, int(math.atan2(dy, dx) % math.pi / math.pi * 9))
            votes[y // side, x // side, number] += math.hypot(dx, dy) / side**2
    votes /= votes.norm(dim=-1, keepdim=True) + 0.1
    return votes


@pytest.mark.parametrize(("patch", "parts"), [(4, 2), (3, 1)])
def test_gradient_targets_are_histograms_of_each_patch(patch, parts):
    images = torch.randn(2, 3, 2 * patch, 4 * patch)
    found = patch_gradients(images, patch)
    assert found.shape == (2, 8, 3 * 9 * parts**2)
    cells = found.unflatten(-1, (3, 9, parts, parts))
    for image, channel, patch_number in ((0, 0, 0), (1, 2, 7), (0, 1, 5)):
        by_loops = gradients_by_hand(images[image, channel], patch, parts)
        row, column = (parts * place for place in divmod(patch_number, 4))
        expected = by_loops[row : row + parts, column : column + parts].permute(2, 0, 1)
        torch.testing.assert_close(cells[image, patch_number, channel], expected, atol=1e-5, rtol=1e-4)


def test_a_run_on_gradients_hands_out_the_level_it_predicted(tmp_path):
    settings = TINY | {"model": TINY["model"] | {"levels": [[0, 1], [2, 1]]}, "loss": {"pixel_targets": "gradients"}}
    run = hjepa.pretrain(pictures(), out=tmp_path / "run", **settings)
    encoder = hjepa.load_encoder(run)
    images = torch.randint(0, 255, (2, 3, 16, 16), dtype=torch.uint8)
    pixels = (images / 255 - encoder.mean) / encoder.std
    cells = encoder.levels(images)[0].flatten(1, 2)
    torch.testing.assert_close(cells, F.layer_norm(patch_gradients(pixels, 4), (108,)))
    assert metrics(run.path)[-1]["levels"][0]["target_std"] > 0


@pytest.mark.parametrize("pixel_targets", ["values", "gradients"])
def test_empty_patches_are_no_fault_of_the_loop(pixel_targets, tmp_path):
    """The pixels of an empty patch stay zero in a layer norm: the audit took that for targets without one."""
    source = pictures()
    source.images[:, 8:] = 0  # black below
    source.images[:, :, :4] //= 100  # and nearly so on the left
    settings = TINY | {"model": TINY["model"] | {"levels": [[0, 1], [2, 1]]}, "loss": {"pixel_targets": pixel_targets}}
    run = hjepa.pretrain(source, out=tmp_path / "run", **settings)
    assert run.record["audit"]["verdict"] == "conforms"


def test_gradients_without_a_level_of_depth_0_are_refused():
    with pytest.raises(UserError, match=r"loss\.pixel_targets = gradients needs a level of depth 0: add 0 to"):
        tiny(loss={"pixel_targets": "gradients"})
