"""TargetEncoder: the average as arithmetic."""

import pytest
import torch
from conftest import tiny
from runs import trainer_of
from torch import nn

from hjepa.models.encoder import ContextEncoder
from hjepa.models.target import TargetEncoder


def encoder(width: int = 16, **extra: torch.Tensor) -> ContextEncoder:
    made = ContextEncoder(image_size=(8, 8), patch_size=4, channels=1, width=width, depth=1, heads=2)
    for name, buffer in extra.items():
        made.register_buffer(name, buffer)
    torch.manual_seed(0)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def test_a_thousand_updates_equal_a_float64_computation_by_hand():
    student = encoder()
    teacher = TargetEncoder(student, lambda step: 0.996 + 0.004 * step / 1000)
    expected = {n: t.double().clone() for n, t in student.named_parameters()}
    random = torch.Generator().manual_seed(1)
    for step in range(1000):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.01)
        m = teacher.update_from_context_encoder(student, step)
        for name, parameter in student.named_parameters():
            expected[name] = m * expected[name] + (1 - m) * parameter.double()
    for name, parameter in teacher.encoder.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name], rtol=2e-5, atol=2e-6)


def test_updates_stay_in_the_same_storage():
    student = encoder()
    teacher = TargetEncoder(student, lambda _: 0.9)
    before = {n: p.data_ptr() for n, p in teacher.encoder.named_parameters()}
    teacher.update(student, 0.9)
    teacher.copy_from_context_encoder(student)
    assert before == {n: p.data_ptr() for n, p in teacher.encoder.named_parameters()}
    assert not set(before.values()) & {p.data_ptr() for p in student.parameters()}


def test_float_buffers_follow_and_integer_buffers_are_copied():
    student = encoder(running=torch.tensor([1.0, 2.0]), batches=torch.tensor(3))
    teacher = TargetEncoder(student, lambda _: 0.5)
    student.running.copy_(torch.tensor([3.0, 6.0]))
    student.batches.fill_(11)
    teacher.update(student, 0.5)
    assert teacher.encoder.running.tolist() == [2.0, 4.0]
    assert int(teacher.encoder.batches) == 11
    assert teacher.encoder.batches.dtype == torch.int64


def test_tensors_are_paired_by_name_not_by_order():
    student = encoder()
    teacher = TargetEncoder(student, lambda _: 0.0)
    names = list(student.vit._modules)
    for name in reversed(names):  # same names, other order
        student.vit._modules[name] = student.vit._modules.pop(name)
    assert list(student.vit._modules) != names
    with torch.no_grad():
        for i, parameter in enumerate(student.parameters()):
            parameter.fill_(float(i))
    teacher.update(student, 0.0)
    mine = dict(teacher.encoder.named_parameters())
    assert all(torch.equal(mine[name], parameter) for name, parameter in student.named_parameters())


def test_the_ends_of_the_momentum_range():
    student = encoder()
    teacher = TargetEncoder(student, lambda _: 1.0)
    start = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    teacher.update(student, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(start, teacher.parameters(), strict=True))
    teacher.update(student, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), teacher.encoder.parameters(), strict=True))


@pytest.mark.parametrize("momentum", [-0.1, 1.0001, float("nan")])
def test_momentum_outside_its_range_is_refused(momentum):
    teacher = TargetEncoder(student := encoder(), lambda _: 1.0)
    with pytest.raises(ValueError, match=r"momentum .*\[0, 1\]"):
        teacher.update(student, momentum)


def test_another_architecture_is_refused_and_nothing_moves():
    teacher = TargetEncoder(encoder(), lambda _: 0.5)
    before = [p.clone() for p in teacher.parameters()]
    with pytest.raises(
        ValueError, match=r"vit\.pos_embed: target is \(1, 4, 16\) torch.float32, context is \(1, 4, 32\)"
    ):
        teacher.update(encoder(width=32), 0.5)
    with pytest.raises(ValueError, match="differ in 1 tensors, first: extra"):
        teacher.update(encoder(extra=torch.zeros(1)), 0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))


def test_half_precision_weights_are_refused():
    student = encoder().bfloat16()
    with pytest.raises(ValueError, match="the average needs float32 weights"):
        TargetEncoder(student, lambda _: 0.5).update(student, 0.996)


def test_no_call_of_the_target_encoder_builds_a_graph():
    trainer, batches, _ = trainer_of(tiny())
    (batch,) = next(batches)
    images = batch.images.requires_grad_(True)
    assert not trainer.model.target_encoder(images).requires_grad
    trainer.model.target_encoder.update(trainer.model.context_encoder, 0.9)
    assert all(p.is_leaf and not p.requires_grad for p in trainer.model.target_encoder.parameters())
