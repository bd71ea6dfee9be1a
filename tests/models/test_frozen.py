"""The encoder people use: sizes, channels, and the same network in stock timm."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import TINY
from runs import pictures
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

import hjepa
from hjepa.errors import UserError
from hjepa.models.frozen import random_init_copy


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return hjepa.pretrain(pictures(), out=tmp_path_factory.mktemp("frozen") / "run", **TINY)


def test_maps_images_to_tokens_and_pooled_features(run):
    encoder = hjepa.load_encoder(run.path)
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    tokens, pooled = encoder(images)
    assert tokens.shape == (5, 16, 32) and pooled.shape == (5, 32)
    torch.testing.assert_close(encoder(images.float() / 255).tokens, tokens)
    assert not tokens.requires_grad
    blocks = encoder.block_tokens(images, last=2)
    assert len(blocks) == 2
    torch.testing.assert_close(blocks[-1], tokens)


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (16, 40)])
def test_other_sizes_work(run, size):
    encoder = hjepa.load_encoder(run)
    images = torch.zeros(2, 3, *size)
    assert encoder.grid(images) == (size[0] // 4, size[1] // 4)
    assert encoder(images).tokens.shape[1] == size[0] * size[1] // 16


def test_stock_timm_gives_the_same_features(run):
    card = json.loads((run.path / "encoder.json").read_text())
    sizes = {name: value for name, value in card["timm"].items() if name != "class"}
    stock = VisionTransformer(**sizes).eval()
    stock.load_state_dict(load_file(run.path / "encoder.safetensors"))
    images = torch.rand(3, 3, 16, 16)
    mean, std = (torch.tensor(card["preprocess"][k]).view(-1, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        pooled = stock((images - mean) / std)
    torch.testing.assert_close(hjepa.load_encoder(run)(images).pooled, pooled, rtol=1e-5, atol=1e-5)


def test_the_lines_of_the_readme_load_it_in_stock_timm(run):
    page = (Path(__file__).parents[2] / "README.md").read_text()
    block = next(text for text in re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S) if "timm" in text)
    known = {"images": torch.rand(3, 3, 16, 16)}
    exec(block.replace("runs/photos", str(run.path)), known)
    torch.testing.assert_close(known["pooled"], hjepa.load_encoder(run)(known["images"]).pooled, rtol=1e-5, atol=1e-5)


def test_timm_opens_a_run_by_itself(run, monkeypatch):
    """No key is missing and none is left over, sizes and normalisation come with it."""
    loaded = []
    take = torch.nn.Module.load_state_dict

    def watched(module, *given, **named):
        loaded.append(take(module, *given, **named))
        return loaded[-1]

    monkeypatch.setattr(torch.nn.Module, "load_state_dict", watched)
    model = timm.create_model(f"local-dir:{run.path}", pretrained=True).eval()
    assert [(found.missing_keys, found.unexpected_keys) for found in loaded] == [([], [])]
    assert type(model) is VisionTransformer
    data = timm.data.resolve_model_data_config(model)
    assert (data["input_size"], data["crop_pct"]) == ((3, 16, 16), 1.0)
    images = torch.rand(3, 3, 16, 16)
    mean, std = (torch.tensor(data[name]).view(-1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        pooled = model((images - mean) / std)
    torch.testing.assert_close(hjepa.load_encoder(run)(images).pooled, pooled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("images", [torch.rand(2, 3, 16, 16), torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)])
def test_it_can_be_exported(run, images):
    """Case 37."""
    encoder = hjepa.load_encoder(run)
    exported = torch.export.export(encoder, (images,)).module()
    torch.testing.assert_close(exported(images).pooled, encoder(images).pooled)


@pytest.mark.slow
def test_it_can_be_exported_for_any_number_and_size_of_images(run):
    """The example has the size of training, whose positions are stored: the program must not be fixed to it."""
    from torch.export import Dim

    encoder = hjepa.load_encoder(run)
    sizes = {0: Dim("batch", min=1), 2: 4 * Dim("rows", min=2), 3: 4 * Dim("columns", min=2)}
    program = torch.export.export(encoder, (torch.rand(2, 3, 16, 16),), dynamic_shapes={"images": sizes}).module()
    for shape in ((1, 16, 16), (3, 8, 44), (5, 24, 12)):
        images = torch.rand(shape[0], 3, *shape[1:])
        torch.testing.assert_close(program(images).tokens, encoder(images).tokens, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [None, True])
def test_it_compiles_without_a_graph_break(run, dynamic):
    torch.compiler.reset()
    encoder = hjepa.load_encoder(run)
    compiled = torch.compile(encoder, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for images in (
        torch.rand(2, 3, 16, 16),
        torch.rand(3, 3, 8, 24),
        torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8),
    ):
        torch.testing.assert_close(compiled(images).tokens, encoder(images).tokens, rtol=0, atol=1e-5)
    levels = torch.compile(encoder.levels, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    torch.testing.assert_close(levels(images), encoder.levels(images), rtol=0, atol=1e-5)


def test_it_is_the_target_encoder(run):
    saved = load_file(run.path / "checkpoints" / "last" / "weights.safetensors")
    encoder = load_file(run.path / "encoder.safetensors")
    for name, tensor in encoder.items():
        assert torch.equal(tensor, saved[f"target_encoder.encoder.vit.{name}"])
    assert any(not torch.equal(t, saved[f"context_encoder.vit.{n}"]) for n, t in encoder.items())


def test_the_random_init_control_has_the_weights_training_started_from(run):
    from runs import trainer_of

    from hjepa.config import load

    encoder = hjepa.load_encoder(run)
    start = trainer_of(load((run.path / "config.yaml").read_text()))[0].model.context_encoder.state_dict()
    control = random_init_copy(encoder, seed=encoder.card["provenance"]["seed"]).encoder.state_dict()
    assert all(torch.equal(control[name], tensor) for name, tensor in start.items())


def test_unsuitable_images_are_refused(run):
    encoder = hjepa.load_encoder(run)
    with pytest.raises(UserError, match=r"this encoder takes images \[B, 3, H, W\], got \[2, 1, 16, 16\]"):
        encoder(torch.zeros(2, 1, 16, 16))
    with pytest.raises(UserError, match=r"images of 18x16 pixels cannot be cut into patches of 4"):
        encoder(torch.zeros(2, 3, 18, 16))


def test_numpy_arrays_are_taken_and_other_things_named(run):
    encoder = hjepa.load_encoder(run)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8).transpose(0, 3, 1, 2)
    torch.testing.assert_close(encoder(images).tokens, encoder(torch.from_numpy(images.copy())).tokens)
    torch.testing.assert_close(encoder(images / 255).tokens, encoder(images).tokens)
    assert encoder.grid(images) == (4, 4) and len(encoder.levels(images)) == 1
    with pytest.raises(UserError, match=r"images .* list: .*tensor or an array \[B, C, H, W\]"):
        encoder([1, 2])
    with pytest.raises(UserError, match=r"images are int64: .*uint8"):
        encoder(images.astype(np.int64))


def test_damaged_encoders_are_refused(run, tmp_path):
    (tmp_path / "encoder.json").write_text((run.path / "encoder.json").read_text())
    (tmp_path / "encoder.safetensors").write_bytes((run.path / "encoder.safetensors").read_bytes()[:500])
    with pytest.raises(UserError, match=r"damaged encoder.*--resume"):
        hjepa.load_encoder(tmp_path)
    with pytest.raises(UserError, match=r"nothing .*no encoder"):
        hjepa.load_encoder(tmp_path / "nothing")
