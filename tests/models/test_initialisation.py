"""First values of weights: by seed, and as large as their kind says."""

import math

import pytest
import torch
from conftest import TINY, tiny
from runs import pictures, same, weights

import hjepa
from hjepa.models.frozen import encoder_from_card, random_init_copy
from hjepa.models.initialisation import initialise
from hjepa.setup.autoconfig import resolve_auto
from hjepa.setup.build import build_model


def encoder_of(kind: str):
    model = {"width": 128, "heads": 4, "initialisation": kind}
    return build_model(resolve_auto(tiny(model=model), pictures()).config).context_encoder.vit


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


def test_mimetic_attention_looks_at_the_similar_and_takes_it_away():
    width, heads = 128, 4
    attention = encoder_of("mimetic").blocks[0].attn
    queries, keys, values = attention.qkv.weight.detach().chunk(3)  # [D, D] each
    diagonal = torch.eye(width, dtype=torch.bool)
    for query, key in zip(queries.chunk(heads), keys.chunk(heads), strict=True):
        product = query.T @ key  # [D, D], of rank D / H
        assert float(torch.linalg.matrix_rank(product)) == width // heads
        assert float(product.diagonal().mean()) > 5 * float(product[~diagonal].abs().mean())
    product = values.T @ attention.proj.weight.detach().T
    # 0.4 Z - 0.4 I with Z of variance 1 / width (arXiv:2305.09828).
    assert float(product.diagonal().mean()) == pytest.approx(-0.4, abs=0.02)
    assert float(product[~diagonal].std()) == pytest.approx(0.4 / math.sqrt(width), rel=0.05)


def test_mimetic_leaves_all_but_the_encoders_attention_as_xavier():
    model = {"width": 128, "heads": 4}
    mimetic, xavier = (
        dict(
            build_model(
                resolve_auto(tiny(model=model | {"initialisation": kind}), pictures()).config
            ).named_parameters()
        )
        for kind in ("mimetic", "xavier")
    )
    differ = {name for name in mimetic if not torch.equal(mimetic[name], xavier[name])}
    assert differ
    assert all(".attn." in name and name.endswith("weight") and "predictor" not in name for name in differ)


@pytest.mark.parametrize("kind", ["released", "xavier", "mimetic"])
def test_the_seed_decides_alone(kind):
    vit = encoder_of(kind)
    before = weights(vit)
    initialise(vit, seed=5, kind=kind)
    first = weights(vit)
    initialise(vit, seed=5, kind=kind)
    assert same(first, weights(vit))
    assert not same(first, before)


def test_the_random_twin_of_an_evaluation_is_drawn_like_the_run(tmp_path):
    model, train = TINY["model"] | {"initialisation": "xavier"}, TINY["train"] | {"length": 1}
    run = hjepa.pretrain(pictures(), out=tmp_path / "run", **(TINY | {"model": model, "train": train}))
    frozen = hjepa.load_encoder(run)
    by_hand = encoder_from_card(frozen.card)
    initialise(by_hand, seed=3, kind="xavier")
    assert same(weights(random_init_copy(frozen, seed=3).encoder), weights(by_hand))
    initialise(by_hand, seed=3, kind="released")
    assert not same(weights(random_init_copy(frozen, seed=3).encoder), weights(by_hand))
