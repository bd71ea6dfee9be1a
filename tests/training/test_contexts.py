"""Several contexts an image for one pass of the target encoder."""

import pytest
import torch
from conftest import tiny
from runs import trainer_of, weights

from hjepa.models.levels import gather_cells
from hjepa.training.health import judged_level, measure_levels

THREE = {"masking": {"contexts": 3}, "train": {"precision": "float64"}, "model": {"levels": [[0, 1], [2, 2]]}}


def test_contexts_of_one_image_are_masks_of_that_image():
    trainer, batches, config = trainer_of(tiny(**THREE))
    (batch,) = next(batches)
    images = config.optim.batch_size
    assert len(batch.images) == images and len(batch.context_index) == len(batch.target_index) == 3 * images
    with torch.no_grad():
        forward = trainer.model(*batch)
        for image, context in ((0, 0), (0, 2), (images - 1, 1)):
            row = 3 * image + context
            alone = trainer.model(
                batch.images[image : image + 1], batch.context_index[row : row + 1], batch.target_index[row : row + 1]
            )
            torch.testing.assert_close(forward.context[row], alone.context[0])
            for level, one in zip(forward.levels, alone.levels, strict=True):
                torch.testing.assert_close(level.predictions[row], one.predictions[0])
                torch.testing.assert_close(level.targets[row], one.targets[0])
                torch.testing.assert_close(level.targets[row], gather_cells(one.cells, one.cell_index)[0])
    assert len(forward.pooled) == images


def test_masks_of_one_image_differ():
    _, batches, _ = trainer_of(tiny(**THREE))
    (batch,) = next(batches)
    assert not torch.equal(batch.target_index[0], batch.target_index[1])


def test_the_target_encoder_passes_once_and_the_context_encoder_sees_every_mask():
    trainer, batches, config = trainer_of(tiny(**THREE))
    seen = {"target": [], "context": []}
    blocks = {"target": trainer.model.target_encoder.encoder, "context": trainer.model.context_encoder}
    for name, encoder in blocks.items():
        encoder.vit.blocks[0].register_forward_hook(lambda _m, args, _o, name=name: seen[name].append(len(args[0])))
    trainer.train_step(next(batches))
    assert seen == {"target": [config.optim.batch_size], "context": [3 * config.optim.batch_size]}


def test_accumulating_equals_one_batch_with_several_contexts():
    given = {**THREE, "optim": {"batch_size": 16}}
    one, one_batches, _ = trainer_of(tiny(**given))
    four, four_batches, _ = trainer_of(tiny(**{**given, "optim": {"batch_size": 16, "accumulate": 4}}))
    for _ in range(2):
        a, b = one.train_step(next(one_batches)), four.train_step(next(four_batches))
        assert a.loss == pytest.approx(b.loss, rel=1e-12)
    for name, tensor in weights(one.model).items():
        torch.testing.assert_close(tensor, weights(four.model)[name], rtol=1e-9, atol=1e-12)


def test_health_looks_at_a_level_that_is_trained():
    trainer, batches, _ = trainer_of(tiny(model={"levels": [1, 2]}))
    (batch,) = next(batches)
    with torch.no_grad():
        forward = trainer.model(*batch)
    for shares, judged in (((0.5, 0.5), 1), ((0.0, 1.0), 1), ((1.0, 0.0), 0)):
        measured = measure_levels(forward, "smooth-l1", shares, judged_level(shares, shares))
        assert measured["own_similarity"] == measured["levels"][judged]["own_similarity"]


def test_health_compares_an_image_with_others_only():
    """With one context an image or three, the first of which is the same, the measures are the same."""
    trainer, batches, _ = trainer_of(tiny(**THREE))
    (batch,) = next(batches)
    with torch.no_grad():
        three = trainer.model(*batch)
        one = trainer.model(batch.images, batch.context_index[::3], batch.target_index[::3])
    measured = [measure_levels(forward, "smooth-l1", (0.5, 0.5), 1) for forward in (three, one)]
    for name in ("cross_sample_gap", "loss_position_mean", "loss_mean_token", "position_share", "prediction_std"):
        assert measured[0][name] == pytest.approx(measured[1][name], rel=1e-6)
