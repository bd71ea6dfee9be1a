"""Teacher and student are found wherever a program keeps them, and never guessed when several fit.

The file is also the script that is audited: ``hjepa audit test_discovery.py PROGRAM``.
"""

import copy
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from audit.test_forks import Ran, audit
from loop_parts.tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks
from torch import Tensor, nn

STEPS = 8
Network = Callable[..., Tensor]


def frozen_copy(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).requires_grad_(False).eval()


@torch.no_grad()
def average(teacher: nn.Module, student: nn.Module, momentum: float = 0.99) -> None:
    for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
        t.mul_(momentum).add_(s, alpha=1 - momentum)


def adamw(*networks: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for network in networks for p in network.parameters() if p.requires_grad], lr=1e-3)


def loss_of(student: Network, predictor: Network, teacher: Network) -> Tensor:
    images = random_images()
    context_index, target_index = random_masks()
    with torch.no_grad():
        target = gather(F.layer_norm(teacher(images), (WIDTH,)), target_index)
    return F.smooth_l1_loss(predictor(student(images, context_index), context_index, target_index), target)


def learn(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take a step; no network is a variable of this function."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


# ---------------------------------------------------------------------- programs


def local_variables() -> None:
    encoder, predictor = Encoder(), Predictor()
    target = frozen_copy(encoder)
    optimizer = adamw(encoder, predictor)
    for _ in range(STEPS):
        learn(optimizer, loss_of(encoder, predictor, target))
        average(target, encoder)


class Trainer:
    def __init__(self) -> None:
        self.model = nn.ModuleDict({"encoder": Encoder(), "predictor": Predictor()})
        self.ema = frozen_copy(self.model["encoder"])
        self.optimizer = adamw(self.model)

    def train(self) -> None:
        for _ in range(STEPS):
            learn(self.optimizer, loss_of(self.model["encoder"], self.model["predictor"], self.ema))
            average(self.ema, self.model["encoder"])


def attributes() -> None:
    trainer = Trainer()
    trainer.train()


def in_a_dictionary() -> None:
    networks: dict[str, Any] = {"student": Encoder(), "predictor": Predictor()}
    networks["teacher"] = frozen_copy(networks["student"])
    optimizer = adamw(networks["student"], networks["predictor"])
    for _ in range(STEPS):
        learn(optimizer, loss_of(networks["student"], networks["predictor"], networks["teacher"]))
        average(networks["teacher"], networks["student"])


class Slots:
    """Keeps its networks where no ``__dict__`` lists them."""

    __slots__ = ("encoder", "optimizer", "predictor", "target")


def in_slots() -> None:
    kept = Slots()
    kept.encoder, kept.predictor = Encoder(), Predictor()
    kept.target = frozen_copy(kept.encoder)
    kept.optimizer = adamw(kept.encoder, kept.predictor)
    for _ in range(STEPS):
        learn(kept.optimizer, loss_of(kept.encoder, kept.predictor, kept.target))
        average(kept.target, kept.encoder)


def averaged_model() -> None:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    encoder, predictor = Encoder(), Predictor()
    ema = AveragedModel(encoder, multi_avg_fn=get_ema_multi_avg_fn(0.99)).requires_grad_(False)
    optimizer = adamw(encoder, predictor)
    ema.update_parameters(encoder)  # the first call copies
    for _ in range(STEPS):
        learn(optimizer, loss_of(encoder, predictor, ema))
        ema.update_parameters(encoder)


def timm_ema() -> None:
    from timm.utils import ModelEmaV3

    encoder, predictor = Encoder(), Predictor()
    ema = ModelEmaV3(encoder, decay=0.99).requires_grad_(False)
    optimizer = adamw(encoder, predictor)
    for _ in range(STEPS):
        learn(optimizer, loss_of(encoder, predictor, ema.module))
        ema.update(encoder)


def compiled() -> None:
    encoder, predictor = Encoder(), Predictor()
    target = frozen_copy(encoder)
    fast = torch.compile(encoder, backend="eager")
    optimizer = adamw(fast, predictor)
    for _ in range(STEPS):
        learn(optimizer, loss_of(fast, predictor, target))
        average(target, encoder)


def data_parallel() -> None:
    encoder, predictor = nn.DataParallel(Encoder()), Predictor()
    target = frozen_copy(encoder.module)
    optimizer = adamw(encoder, predictor)
    for _ in range(STEPS):
        learn(optimizer, loss_of(encoder, predictor, target))
        average(target, encoder.module)


def distributed() -> None:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    encoder, predictor = DistributedDataParallel(Encoder()), DistributedDataParallel(Predictor())
    target = frozen_copy(encoder.module)
    optimizer = adamw(encoder, predictor)
    for _ in range(STEPS):
        learn(optimizer, loss_of(encoder, predictor, target))
        average(target, encoder.module)
    dist.destroy_process_group()


def both_wrapped() -> None:
    """Student and teacher are both compiled; the teacher was copied with its wrapper."""
    encoder, predictor = torch.compile(Encoder(), backend="eager"), Predictor()
    target = frozen_copy(encoder)
    optimizer = adamw(encoder, predictor)
    for _ in range(STEPS):
        learn(optimizer, loss_of(encoder, predictor, target))
        average(target, encoder)


def late() -> None:
    """The teacher comes to be after the second step."""
    encoder, predictor = Encoder(), Predictor()
    optimizer = adamw(encoder, predictor)
    target = encoder
    for number in range(STEPS):
        learn(optimizer, loss_of(encoder, predictor, target))
        if number == 1:
            target = frozen_copy(encoder)
        elif number > 1:
            average(target, encoder)


def two_look_alikes() -> None:
    """Both hold the student's values and neither is named like a teacher."""
    encoder, predictor = Encoder(), Predictor()
    first, second = frozen_copy(encoder), frozen_copy(encoder)
    optimizer = adamw(encoder, predictor)
    for _ in range(STEPS):
        learn(optimizer, loss_of(encoder, predictor, first))
        average(first, encoder)
        average(second, encoder, 0.9)


def pretrained_besides() -> None:
    """A frozen network of the same kind with other weights is no teacher."""
    reference = Encoder().requires_grad_(False)
    encoder, predictor = Encoder(), Predictor()
    second = frozen_copy(encoder)
    optimizer = adamw(encoder, predictor)
    for _ in range(STEPS):
        learn(optimizer, loss_of(encoder, predictor, second))
        with torch.no_grad():
            reference(random_images())
        average(second, encoder)


def no_teacher() -> None:
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = adamw(network)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(network(torch.randn(4, 8)), torch.randint(2, (4,))).backward()
        optimizer.step()


def generator_first() -> None:
    """Another optimizer steps first, for networks that have no teacher."""
    helper = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    helping = adamw(helper)
    encoder, predictor = Encoder(), Predictor()
    target = frozen_copy(encoder)
    optimizer = adamw(encoder, predictor)
    for _ in range(STEPS):
        helping.zero_grad()
        helper(torch.randn(4, 8)).square().mean().backward()
        helping.step()
        learn(optimizer, loss_of(encoder, predictor, target))
        average(target, encoder)


PROGRAMS = {
    program.__name__: program
    for program in (
        local_variables, attributes, in_a_dictionary, in_slots, averaged_model, timm_ema, compiled, data_parallel,
        distributed, both_wrapped, late, two_look_alikes, pretrained_besides, no_teacher, generator_first,
    )
}  # fmt: skip


# ---------------------------------------------------------------------- what is found

FOUND = {  # program: student, teacher, wrappers
    "local_variables": ("encoder", "target", []),
    "attributes": ("model.encoder", "ema", []),
    "in_a_dictionary": ("networks.student", "networks.teacher", []),
    "averaged_model": ("encoder", "ema.module", []),
    "timm_ema": ("encoder", "ema.module", []),
    "compiled": ("encoder", "target", ["OptimizedModule"]),
    "data_parallel": ("encoder.module", "target", ["DataParallel"]),
    "distributed": ("encoder.module", "target", ["DistributedDataParallel"]),
    "both_wrapped": ("encoder._orig_mod", "target._orig_mod", ["OptimizedModule"]),
    "pretrained_besides": ("encoder", "second", []),
    "generator_first": ("encoder", "target", []),
}
QUICK = ("attributes", "averaged_model", "distributed", "generator_first")


def run(program: str, *options: str) -> Ran:
    return audit("--spec", "custom", "--momentum", "0.99", *options, __file__, program)


def programs() -> list[object]:
    found = []
    for name in FOUND:
        marks = [] if name in QUICK else [pytest.mark.slow]
        found.append(pytest.param(name, marks=marks))
    return found


@pytest.mark.parametrize("program", programs())
def test_the_pair_is_found_and_named_as_in_the_program(program):
    ran = run(program)
    student, teacher, wrappers = FOUND[program]
    assert ran.report is not None, ran
    subject = ran.report["subject"]
    assert (subject["student"], subject["teacher"], subject["wrappers"]) == (student, teacher, wrappers), ran
    assert subject["tensors"] == 29
    assert subject["candidates"] == []
    assert ran.report["verdict"] == "conforms" and ran.code == 0, ran
    assert ran.report["measured"]["momentum"] == pytest.approx([0.99] * STEPS, abs=1e-5)


def test_the_optimizer_of_a_function_that_is_over_is_named():
    assert run("local_variables").report["subject"]["optimizer"] == "AdamW"


@pytest.mark.slow
def test_variables_of_the_script_are_named():
    subject = audit("--steps", "4", "sound_loops/ijepa.py").report["subject"]
    assert (subject["student"], subject["teacher"]) == ("encoder", "target_encoder")
    assert subject["script"] == "sound_loops/ijepa.py"


@pytest.mark.slow
def test_networks_that_cannot_be_named_are_found_all_the_same():
    ran = run("in_slots")
    assert ran.report["verdict"] == "conforms", ran
    assert (ran.report["subject"]["student"], ran.report["subject"]["teacher"]) == ("<Encoder>", "<Encoder>")


def test_siblings_are_found_together():
    """BYOL: backbone and projector have a teacher each, the predictor has none."""
    ran = audit("sound_loops/byol.py")
    subject = ran.report["subject"]
    assert ran.report["verdict"] == "conforms", ran
    assert subject["student"] and len(subject["student"].split(", ")) == len(subject["teacher"].split(", "))
    assert "predictor" not in subject["student"] + subject["teacher"]


@pytest.mark.slow
def test_a_teacher_that_comes_later_is_found():
    ran = run("late")
    assert ran.report["subject"]["teacher"] == "target", ran
    assert ran.finding("initial-mismatch")["status"] == "not-checked"
    assert not ran.fired, ran


def test_steps_of_other_optimizers_do_not_hide_the_start():
    assert run("generator_first").finding("initial-mismatch")["status"] == "pass"


def test_of_several_that_fit_none_is_guessed():
    ran = run("two_look_alikes")
    assert ran.code == 3 and ran.report["verdict"] == "inconclusive", ran
    assert ran.report["steps"] == 0 and ran.report["findings"] == []
    assert re.search("several pairs .*--student NAME --teacher NAME", ran.report["reason"])
    assert sorted(ran.report["subject"]["candidates"]) == [
        "student encoder, teacher first",
        "student encoder, teacher second",
    ]
    for option in ("--student encoder --teacher first", "--student encoder --teacher second"):
        assert option in ran.err, ran


@pytest.mark.parametrize(
    ("teacher", "momentum"),
    [("first", 0.99), ("second", 0.9)],
)
@pytest.mark.parametrize(
    "student", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["both named", "teacher named"]
)
def test_the_one_that_is_named_is_taken(teacher, momentum, student):
    ran = audit(*["--student", "encoder"] * student, "--teacher", teacher, __file__, "two_look_alikes")
    assert ran.report["subject"]["teacher"] == teacher, ran
    assert ran.report["measured"]["momentum"] == pytest.approx([momentum] * STEPS, abs=1e-5)
    assert ran.code == 0, ran


@pytest.mark.parametrize("words", [("--student", "encode"), ("--teacher", "encoder.nothing")])
def test_a_name_that_leads_nowhere_is_reported_in_one_sentence(words):
    ran = run("local_variables", *words)
    assert ran.code == 3, ran
    assert re.match(rf"no module is named {re.escape(words[1])}; .*\bencoder\b", ran.report["reason"])
    assert len(ran.report["reason"].splitlines()) == 1
    assert "Traceback" not in ran.err


def test_after_a_wrong_name_the_networks_that_can_be_chosen_are_listed():
    reason = run("local_variables", "--student", "encode").report["reason"]
    assert {"encoder", "predictor", "target"} <= set(re.findall(r"[\w.]+", reason.partition("; ")[2]))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--student", "optimizer"), "optimizer"),
        (("--student", "predictor", "--teacher", "target"), "predictor"),
        (("--student", "target", "--teacher", "encoder"), "target"),
        (("--student", "encoder", "--teacher", "encoder"), "encoder"),
    ],
    ids=["no module", "no pair", "exchanged", "the same"],
)
def test_names_that_make_no_sense_are_not_a_verdict_on_the_loop(words, says):
    ran = run("local_variables", *words)
    assert ran.code == 3 and says in ran.report["reason"], ran
    assert "Traceback" not in ran.err


def test_a_program_without_a_teacher_is_told_so():
    ran = run("no_teacher")
    assert ran.code == 3 and ran.report["steps"] == 0
    assert re.match(
        "no teacher was found: .*same names and shapes.*--student NAME --teacher NAME", ran.report["reason"]
    )
    assert "Traceback" not in ran.err


if __name__ == "__main__":
    torch.manual_seed(0)
    PROGRAMS[sys.argv[1]]()
