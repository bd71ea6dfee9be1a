"""``--init-from`` takes the weights people have, and the encoder then computes what theirs did."""

import argparse
import json
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from transformers import Dinov2Config, Dinov2Model, IJepaConfig, IJepaModel

from hjepa.errors import UserError
from hjepa.models.hjepa import HJEPA, build_hjepa
from hjepa.models.positions import sincos_2d
from hjepa.models.vit_names import with_channels
from hjepa.setup.starting_weights import load_starting_weights

SIZES = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
GRID = (4, 4)
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def ours(channels: int = 3, seed: int = 1, **changes) -> HJEPA:
    sizes = {"image_size": (16, 16), "patch_size": 4, "width": 32, "depth": 2, "heads": 2, "mlp_ratio": 4.0}
    predictor = {"predictor_width": 16, "predictor_depth": 2, "predictor_heads": 2}
    momentum = lambda _step: 0.99  # noqa: E731
    return build_hjepa(channels=channels, momentum=momentum, seed=seed, **sizes | predictor | changes)


def theirs(**changes) -> VisionTransformer:
    """Return a stock timm network with random weights everywhere, and our positions."""
    torch.manual_seed(0)
    fixed = {"num_classes": 0, "class_token": False, "global_pool": "avg", "fc_norm": False}
    network = VisionTransformer(**{**SIZES, **fixed, **changes}).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
        if network.pos_embed.shape == (1, 16, 32):
            network.pos_embed.copy_(sincos_2d(32, GRID))
    return network


@torch.no_grad()
def assert_equal(model: HJEPA, tokens: torch.Tensor, images: torch.Tensor = IMAGES) -> None:
    torch.testing.assert_close(model.context_encoder.eval()(images), tokens, rtol=1e-5, atol=1e-5)
    student, teacher = model.context_encoder.state_dict(), model.target_encoder.encoder.state_dict()
    assert all(torch.equal(student[name], teacher[name]) for name in student)


WRAPS = {
    "plain": lambda s: s,
    "model": lambda s: {"model": s, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
    "state_dict of DDP": lambda s: {"state_dict": {f"module.{k}": t for k, t in s.items()}},
    "DINO": lambda s: {
        "student": {f"module.backbone.{k}": torch.zeros_like(t) for k, t in s.items()},
        "teacher": {f"backbone.{k}": t for k, t in s.items()},
        "args": argparse.Namespace(arch="vit_small"),
    },
    "target_encoder": lambda s: {"target_encoder": {f"module.{k}": t for k, t in s.items()}},
    "encoder": lambda s: {"encoder": s},
    "compiled": lambda s: {f"_orig_mod.{k}": t for k, t in s.items()},
    "chunks of DINOv2": lambda s: {
        "teacher": {"backbone." + re.sub(r"^blocks\.", "blocks.0.", name): t for name, t in s.items()}
    },
    "encoder.": lambda s: {f"encoder.{k}": t for k, t in s.items()},
    "context_encoder.": lambda s: {f"context_encoder.{k}": t for k, t in s.items()},
    "student before teacher": lambda s: {
        **{f"student.{k}": torch.zeros_like(t) for k, t in s.items()},
        **{f"teacher.{k}": t for k, t in s.items()},
    },
}


@pytest.mark.parametrize("name", WRAPS)
def test_a_state_dict_of_timm_however_it_is_wrapped(name, tmp_path):
    """Case 36."""
    network, model = theirs(), ours()
    torch.save(WRAPS[name](network.state_dict()), tmp_path / "weights.pth")
    (matched,) = load_starting_weights(model, tmp_path / "weights.pth")
    assert str(matched) == "encoder: 29 of 29 tensors matched"
    assert_equal(model, network.forward_features(IMAGES))


def test_safetensors_of_timm(tmp_path):
    network, model = theirs(), ours()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    load_starting_weights(model, tmp_path / "weights.safetensors")
    assert_equal(model, network.forward_features(IMAGES))


@pytest.mark.parametrize("kind", ["folder", "hf:", "shards", "bin", "file", "state dict in memory", "classifier"])
def test_hugging_face_ijepa(kind, tmp_path):
    """Case 36."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    network = IJepaModel(IJepaConfig(**sizes, image_size=16, patch_size=4)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
        network.embeddings.position_embeddings.copy_(sincos_2d(32, GRID))
    network.save_pretrained(tmp_path / "hf", max_shard_size="30KB" if kind == "shards" else "1GB")
    path = {"file": "hf/model.safetensors", "state dict in memory": "memory.pt", "classifier": "memory.pt"}.get(kind)
    if path == "memory.pt":
        before = "ijepa." if kind == "classifier" else ""
        torch.save({before + name: tensor for name, tensor in network.state_dict().items()}, tmp_path / path)
    if kind == "bin":
        (tmp_path / "hf" / "model.safetensors").unlink()
        torch.save(network.state_dict(), tmp_path / "hf" / "pytorch_model.bin")
    model = ours()
    (matched,) = load_starting_weights(model, ("hf:" if kind == "hf:" else "") + str(tmp_path / (path or "hf")))
    assert str(matched) == "encoder: 29 of 29 tensors matched"
    assert_equal(model, network(IMAGES).last_hidden_state)


def test_the_number_of_heads_must_be_that_of_the_hugging_face_model(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    IJepaModel(IJepaConfig(**sizes, image_size=16, patch_size=4)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"--model\.heads 4$"):
        load_starting_weights(ours(), tmp_path)


@pytest.mark.parametrize("place", ["", "encoder.safetensors"])
@pytest.mark.parametrize("stated", ["config.yaml", "config.json"])
def test_the_number_of_heads_must_be_that_of_the_run(tmp_path, place, stated):
    """It is in no tensor: with another one the same weights compute something else."""
    save_file(theirs().state_dict(), tmp_path / "encoder.safetensors")
    config = {"model": {"heads": 4}} if stated == "config.yaml" else {"model_args": {"num_heads": 4}}
    (tmp_path / stated).write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"--model\.heads 4$"):
        load_starting_weights(ours(), tmp_path / place)
    (matched,) = load_starting_weights(ours(heads=4), tmp_path / place)
    assert str(matched) == "encoder: 29 of 29 tensors matched"


@pytest.mark.parametrize(
    ("width", "heads", "remark"),
    [
        (32, 2, ""),
        (192, 3, ""),
        (192, 6, "; its number of heads is not stated: 6 were used, 3 are usual for width 192 (--model.heads)"),
    ],
)
def test_heads_that_no_file_states_are_named_unless_they_are_the_usual_ones(tmp_path, width, heads, remark):
    save_file(theirs(embed_dim=width, num_heads=heads).state_dict(), tmp_path / "vit.safetensors")
    (matched,) = load_starting_weights(ours(width=width, heads=heads), tmp_path / "vit.safetensors")
    assert str(matched).endswith(remark) and ("heads" in str(matched)) == bool(remark)


def test_a_model_of_timm_by_its_name(tmp_path):
    arguments = {**SIZES, "num_classes": 0, "class_token": False, "global_pool": "avg", "fc_norm": False}
    network = timm.create_model("vit_tiny_patch16_224", **arguments)
    network.load_state_dict(theirs().state_dict())
    timm.models.save_for_hf(network.eval(), tmp_path / "saved", model_args=arguments)
    model, before = ours(), torch.get_rng_state()
    (matched,) = load_starting_weights(model, f"timm:local-dir:{tmp_path}/saved")
    assert "29 of 29" in str(matched)
    assert_equal(model, network.forward_features(IMAGES))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_name_of_timm_is_one_short_line():
    with pytest.raises(
        UserError, match=r"^--init-from timm:no_such_model: timm cannot load it.*list_pretrained"
    ) as met:
        load_starting_weights(ours(), "timm:no_such_model")
    assert len(str(met.value)) < 240


def test_learned_positions_a_class_token_and_a_head_are_left_out_and_named(tmp_path):
    network = theirs(img_size=32, class_token=True, global_pool="token", num_classes=5)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    model, table = ours(), sincos_2d(32, GRID)[None].float()
    (matched,) = load_starting_weights(model, tmp_path / "w.pth")
    assert re.search(r"^encoder: 28 of 29 .*positions stay fixed.*pos_embed", str(matched))
    assert str(matched).endswith("not used: cls_token, head.weight, head.bias")
    assert torch.equal(model.context_encoder.vit.pos_embed, table)
    network.pos_embed = torch.nn.Parameter(table)
    tokens = network.blocks(network.patch_embed.proj(IMAGES).flatten(2).mT + table)
    assert_equal(model, network.norm(tokens))


def test_layer_scales_become_part_of_the_weights(tmp_path):
    network, model = theirs(init_values=0.1), ours()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    (matched,) = load_starting_weights(model, tmp_path / "w.pth")
    assert str(matched) == "encoder: 29 of 29 tensors matched"
    assert_equal(model, network.forward_features(IMAGES))


@pytest.mark.parametrize(("given", "wanted"), [(3, 1), (1, 3), (3, 4), (4, 3)])
def test_patch_embeddings_are_adapted_to_the_channels(given, wanted, tmp_path):
    network, model = theirs(in_chans=given), ours(channels=wanted)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    load_starting_weights(model, tmp_path / "w.pth")
    grey = IMAGES[:, :1]
    if wanted % given == 0 or wanted == 1:  # equal channels give what they gave before
        assert_equal(model, network.forward_features(grey.expand(-1, given, -1, -1)), grey.expand(-1, wanted, -1, -1))
    if given == 3:
        weight = network.patch_embed.proj.weight
        torch.testing.assert_close(with_channels(weight, wanted), timm.models.adapt_input_conv(wanted, weight))


def test_a_network_without_a_final_norm_keeps_ours(tmp_path):
    network, model = theirs(fc_norm=True), ours()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    (matched,) = load_starting_weights(model, tmp_path / "w.pth")
    assert re.search(r"27 of 29 .*norm\.weight, norm\.bias stay as initialised.*not used: fc_norm", str(matched))


def refusal(path: Path, model: HJEPA) -> str:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as met:
        load_starting_weights(model, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    said = str(met.value).replace(str(path), "FILE")
    assert len(said) < 240 and "\n" not in said
    return said


def test_other_sizes_are_refused_with_the_settings_that_fit(tmp_path):
    network = theirs(embed_dim=48, depth=3, patch_size=8, mlp_ratio=2.0)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    said = refusal(tmp_path / "w.pth", ours())
    settings = "--model.width 48 --model.depth 3 --model.patch_size 8 --model.mlp_ratio 2"
    assert said.startswith("--init-from FILE: encoder: 0 of 29 tensors matched") and said.endswith(settings)


def test_a_deeper_network_is_not_cut(tmp_path):
    torch.save(theirs(depth=3).state_dict(), tmp_path / "w.pth")
    assert refusal(tmp_path / "w.pth", ours()).endswith("set --model.depth 3")


@pytest.mark.parametrize("content", [{"fc.weight": torch.ones(2)}, {f"layer{i}": torch.ones(1) for i in range(999)}, 5])
def test_what_is_no_encoder_is_refused_with_what_is_accepted(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    assert re.search(
        r"^--init-from FILE: contains no.*accepted: a run folder.*timm", refusal(tmp_path / "w.pth", ours())
    )


class Harmful:
    """An object whose unpickling touches a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_nothing_in_a_file_is_executed(tmp_path):
    torch.save({"model": theirs().state_dict(), "extra": Harmful(tmp_path / "executed")}, tmp_path / "w.pth")
    assert re.search(r"weights_only=True.*state_dict\(\)", refusal(tmp_path / "w.pth", ours()))
    assert not (tmp_path / "executed").exists()


def released(target: bool = True, **changes) -> dict:
    """Return a checkpoint in the layout of the released ones, whose target encoder differs from the encoder."""
    first, second = ours(seed=5, **changes), ours(seed=6, **changes)
    parts = {"encoder": first.context_encoder.vit, "predictor": first.predictor}
    parts |= {"target_encoder": second.target_encoder.encoder.vit} if target else {}
    states = {part: {f"module.{k}": t for k, t in module.state_dict().items()} for part, module in parts.items()}
    return states | {"opt": {"state": {}, "param_groups": []}, "scaler": None, "epoch": 300, "batch_size": 2048}


@pytest.mark.parametrize(
    ("given", "wanted", "said"),
    [
        ({}, {}, "encoder: 29 of 29 tensors matched; predictor: 32 of 32 tensors matched"),
        ({}, {"channels": 1}, "encoder: 29 of 29 tensors matched; predictor: 32 of 32 tensors matched"),
        ({}, {"image_size": (32, 24)}, "encoder: 28 of 29 .*positions stay fixed.*predictor: 32 of 32"),
        ({}, {"predictor_depth": 3}, "encoder: 29 of 29 .*predictor: 0 of 44 .*starts anew, since predictor_blocks.2"),
        ({"predictor_depth": 3}, {}, "predictor: 0 of 32 .*starts anew, since predictor_blocks.2"),
    ],
)
def test_a_released_checkpoint(given, wanted, said, tmp_path):
    content, model = released(**given), ours(**wanted)
    torch.save(content, tmp_path / "IN1K-vit.h.14-300e.pth.tar")
    found = load_starting_weights(model, tmp_path / "IN1K-vit.h.14-300e.pth.tar")
    assert re.search(said, "; ".join(map(str, found)))
    student, teacher = model.context_encoder.vit.state_dict(), model.target_encoder.encoder.vit.state_dict()
    assert all(torch.equal(student[name], teacher[name]) for name in student)  # at step 0
    loaded = content["target_encoder"]["module.blocks.1.mlp.fc1.weight"]
    assert torch.equal(student["blocks.1.mlp.fc1.weight"], loaded)
    if "32 of 32" in said:
        weight = "predictor_blocks.0.attn.qkv.weight"
        assert torch.equal(model.predictor.state_dict()[weight], content["predictor"][f"module.{weight}"])


def test_a_run_gives_its_target_encoder_and_its_predictor(tmp_path):
    first, second = ours(seed=5), ours(seed=6)
    with torch.no_grad():
        for parameter in first.context_encoder.parameters():
            parameter.add_(0.1)  # a run whose encoders have parted
    torch.save(first.state_dict(), tmp_path / "weights.pt")
    found = load_starting_weights(second, tmp_path / "weights.pt")
    assert "; ".join(map(str, found)) == "encoder: 29 of 29 tensors matched; predictor: 32 of 32 tensors matched"
    wanted = first.target_encoder.encoder.vit.state_dict()
    for network in (second.context_encoder.vit, second.target_encoder.encoder.vit):
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in network.state_dict().items())
    states = first.predictor.state_dict(), second.predictor.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_hugging_faces_dinov2_has_its_scales_folded_in(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
    network = Dinov2Model(Dinov2Config(**sizes, layerscale_value=0.3)).eval()
    network.save_pretrained(tmp_path)
    model = ours()
    load_starting_weights(model, tmp_path)
    own, theirs_ = model.context_encoder.vit.state_dict(), network.state_dict()
    scaled = theirs_["encoder.layer.1.mlp.fc2.weight"] * theirs_["encoder.layer.1.layer_scale2.lambda1"][:, None]
    torch.testing.assert_close(own["blocks.1.mlp.fc2.weight"], scaled)
    assert "layer_scale" not in str(load_starting_weights(ours(), tmp_path)[0])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_positions(kind, tmp_path):
    torch.save({name: tensor.to(kind) for name, tensor in theirs().state_dict().items()}, tmp_path / "w.pth")
    assert str(load_starting_weights(ours(), tmp_path / "w.pth")[0]) == "encoder: 29 of 29 tensors matched"


def test_networks_that_compute_something_else_are_refused(tmp_path):
    swin = {"patch_embed.proj.weight": torch.ones(8, 3, 4, 4), "layers.0.blocks.0.attn.qkv.weight": torch.ones(24, 8)}
    broken = theirs().state_dict()
    broken["norm.weight"][3] = torch.nan
    for state, said in (
        (theirs(qk_norm=True).state_dict(), r"blocks\.0\.attn\.q_norm\.weight does not exist"),
        (broken, r"norm\.weight contains NaN"),
        (swin, "no plain vision transformer"),
    ):
        torch.save(state, tmp_path / "w.pth")
        assert re.search(said, refusal(tmp_path / "w.pth", ours()))


def test_a_folder_of_hugging_face_that_is_incomplete_or_absent(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(UserError, match=r"model-00001-of-00002\.safetensors is missing"):
        load_starting_weights(ours(), tmp_path)
    with pytest.raises(UserError, match=r"^--init-from hf:nobody/nothing: no such folder here; download"):
        load_starting_weights(ours(), "hf:nobody/nothing")
