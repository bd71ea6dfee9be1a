"""Muon: steps of matrices are orthogonal, the rest is AdamW to the last bit, and a run with it resumes bit-exactly."""

import shutil

import pytest
import torch
from commands import metrics
from conftest import TINY, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import pictures, trainer_of, weights

import hjepa
from hjepa.training.muon import Muon, orthogonal
from hjepa.training.parameters import build_optimizer

MUON = {"optim": {"optimizer": "muon"}, "train": {"precision": "float64"}}


@given(rows=st.integers(1, 24), columns=st.integers(1, 24), size=st.sampled_from([1e-5, 1.0, 1e5]), seed=st.integers(0))
@settings(max_examples=60, deadline=None)
def test_orthogonal_keeps_directions_and_evens_out_lengths(rows, columns, size, seed):
    random = torch.Generator().manual_seed(seed % 2**31)
    matrix = size * torch.randn(rows, columns, generator=random, dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonal(matrix[None], torch.float64)[0] @ v.T
    torch.testing.assert_close(inside, torch.diag(inside.diagonal()), atol=1e-6, rtol=0)
    wide = s > 0.01 * s.norm()  # five rounds lift what is above that
    assert inside.diagonal()[wide].min() > 0.6 and inside.diagonal().max() < 1.3


def test_it_is_what_pytorch_does():
    """``torch.optim.Muon`` in bfloat16, for a matrix; as close as its products allow."""
    torch.manual_seed(0)
    start, gradients = torch.randn(8, 24), [torch.randn(8, 24) for _ in range(3)]
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    muon = Muon([{"params": [ours], "orthogonal": True, "lr": 0.1, "weight_decay": 0.3}], betas=(0.9, 0.999))
    other = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.3, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients:
        for parameter, optimizer in ((ours, muon), (theirs, other)):
            parameter.grad = gradient.clone()
            optimizer.step()
    assert (ours - start).norm() > 0.5
    assert (ours - theirs).norm() < 0.02 * (ours - start).norm()


def test_what_is_no_matrix_of_a_block_moves_as_with_adamw():
    """The first step's gradients are those of AdamW: all but the matrices of blocks end bit-equal."""
    moved = {}
    for kind in ("adamw", "muon"):
        trainer, batches, _ = trainer_of(tiny(optim={"optimizer": kind, "start_lr": 1e-3}))
        before = weights(trainer.model.context_encoder)
        trainer.train_step(next(batches))
        moved[kind] = weights(trainer.model.context_encoder)
    matrices = {name for name, tensor in before.items() if tensor.ndim == 2 and "blocks." in name}
    assert len(matrices) == 2 * 4
    for name, tensor in before.items():
        if name not in matrices:
            torch.testing.assert_close(moved["muon"][name], moved["adamw"][name], rtol=1e-5, atol=1e-8)
        else:
            assert not torch.allclose(moved["muon"][name], moved["adamw"][name], atol=1e-6)
            assert not torch.equal(moved["muon"][name], tensor)


def test_every_trained_parameter_is_held_once_and_decays_as_before():
    trainer, _, _ = trainer_of(tiny(**MUON))
    model = trainer.model
    groups = build_optimizer(model, betas=(0.9, 0.95), kind="muon").param_groups
    held = [id(p) for group in groups for p in group["params"]]
    trained = [id(p) for part in (model.context_encoder, model.predictor) for p in part.parameters() if p.requires_grad]
    assert sorted(held) == sorted(trained)
    assert all(p.ndim == 1 for group in groups if not group["decays"] for p in group["params"])
    assert sum(len(group["params"]) for group in groups if group["orthogonal"]) == 4 * 4  # two networks of two blocks


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings_ = TINY | {"optim": TINY["optim"] | MUON["optim"]}
    return hjepa.pretrain(pictures(), out=tmp_path_factory.mktemp("muon") / "run", **settings_)


def test_a_run_with_it_learns_resumes_bit_exactly_and_conforms(run, tmp_path):
    assert run.record["audit"]["verdict"] == "conforms"
    part = shutil.copytree(run.path, tmp_path / "part", symlinks=True)
    last = part / "checkpoints/last"
    last.unlink()
    last.symlink_to("step-00000010")
    hjepa.pretrain(pictures(), out=part, resume=True)
    assert metrics(part) == metrics(run.path)
    assert (part / "encoder.safetensors").read_bytes() == (run.path / "encoder.safetensors").read_bytes()


def test_accumulating_equals_one_batch():
    one, one_batches, _ = trainer_of(tiny(**MUON))
    more = {**MUON, "optim": {**MUON["optim"], "accumulate": 4}}
    four, four_batches, _ = trainer_of(tiny(**more))
    for _ in range(3):
        one.train_step(next(one_batches))
        four.train_step(next(four_batches))
    for name, tensor in weights(one.model).items():
        torch.testing.assert_close(tensor, weights(four.model)[name], rtol=1e-6, atol=1e-9)
