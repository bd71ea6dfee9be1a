"""First values of weights: by seed, and as large as their kind says."""

import math

import pytest
from conftest import TINY, tiny
from runs import pictures, same, weights

import hjepa
from hjepa.models.frozen import blank_encoder, random_twin
from hjepa.models.initialisation import initialise
from hjepa.training.session import build_model, complete


def encoder_of(kind: str):
    model = {"width": 128, "heads": 4, "initialisation": kind}
    return build_model(complete(tiny(model=model), pictures()).config).context_encoder.vit


def test_released_weights_have_the_same_spread_everywhere():
    for name, weight in encoder_of("released").named_parameters():
        if weight.ndim > 1 and weight.requires_grad:
            assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.1), name


def test_xavier_spreads_by_the_size_of_each_layer_queries_keys_and_values_apart():
    vit = encoder_of("xavier")
    block = vit.blocks[0]
    for name, weight in (
        *((f"qkv {part}", rows) for part, rows in enumerate(block.attn.qkv.weight.chunk(3))),
        ("proj", block.attn.proj.weight),
        ("fc1", block.mlp.fc1.weight),
        ("fc2", block.mlp.fc2.weight),
    ):
        bound = math.sqrt(6 / sum(weight.shape))  # Glorot and Bengio (2010), eq. 16
        assert 0.98 * bound < float(weight.detach().abs().max()) <= bound, name
        assert float(weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05), name
    assert float(vit.patch_embed.proj.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert not block.mlp.fc1.bias.any()
    assert bool((block.norm1.weight == 1).all())


@pytest.mark.parametrize("kind", ["released", "xavier"])
def test_the_seed_decides_alone(kind):
    vit = encoder_of(kind)
    before = weights(vit)
    initialise(vit, seed=5, kind=kind)
    first = weights(vit)
    initialise(vit, seed=5, kind=kind)
    assert same(first, weights(vit))
    assert not same(first, before)


def test_the_random_twin_of_an_evaluation_is_drawn_like_the_run(tmp_path):
    model, train = TINY["model"] | {"initialisation": "xavier"}, TINY["train"] | {"steps": 1}
    run = hjepa.pretrain(pictures(), out=tmp_path / "run", **(TINY | {"model": model, "train": train}))
    frozen = hjepa.load_encoder(run)
    by_hand = blank_encoder(frozen.card)
    initialise(by_hand, seed=3, kind="xavier")
    assert same(weights(random_twin(frozen, seed=3).encoder), weights(by_hand))
    initialise(by_hand, seed=3, kind="released")
    assert not same(weights(random_twin(frozen, seed=3).encoder), weights(by_hand))
