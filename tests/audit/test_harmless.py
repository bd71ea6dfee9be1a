"""The auditor changes nothing: not a bit of the weights, no random number, no hook, no memory, no exception.

The file is also the script that is audited: ``hjepa audit test_harmless.py LOOP FILE`` runs a loop and saves
everything it computed.
"""

import contextlib
import copy
import gc
import importlib.util
import pickle
import random
import sys
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from audit.test_forks import audit as audited_script
from audit.test_forks import plain as plain_script
from commands import flat
from loop_parts.tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode, _pop_mode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from hjepa.audit import TeacherAudit

STEPS = 50
CLIPPING = ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_")
HAS_LIGHTNING = importlib.util.find_spec("lightning") is not None


class Run:
    """A real I-JEPA whose data needs the random numbers of torch, numpy and Python."""

    def __init__(self, drop: float = 0.0) -> None:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  the global generator is what must not be disturbed
        random.seed(0)
        self.encoder = Encoder(drop=drop)
        self.predictor = Predictor()
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW([*self.encoder.parameters(), *self.predictor.parameters()], lr=1e-3)
        self.losses: list[float] = []

    def loss(self, encoder: Callable[..., Tensor] | None = None) -> Tensor:
        images = random_images() * random.uniform(0.9, 1.1) + float(np.random.rand())  # noqa: NPY002
        context_index, target_index = random_masks()
        with torch.no_grad():
            target = gather(F.layer_norm(self.teacher(images), (WIDTH,)), target_index)
        encoded = (self.encoder if encoder is None else encoder)(images, context_index)
        predicted = self.predictor(encoded, context_index, target_index)
        return F.smooth_l1_loss(predicted.float(), target.float())

    @torch.no_grad()
    def update(self, momentum: float = 0.99) -> None:
        for t, s in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            t.mul_(momentum).add_(s, alpha=1 - momentum)

    def step(self) -> None:
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.update()
        self.losses.append(loss.item())

    def everything(self) -> dict[str, Any]:
        """Return all that training computed, and the next random number of each generator."""
        return {
            "student": self.encoder.state_dict(),
            "predictor": self.predictor.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "modes": [m.training for n in (self.encoder, self.predictor, self.teacher) for m in n.modules()],
            "losses": self.losses,
            "torch": torch.rand(4),
            "numpy": np.random.rand(4).tolist(),  # noqa: NPY002
            "python": random.random(),
        }


# ---------------------------------------------------------------------- the loops that are compared


def ijepa() -> Run:
    run = Run()
    for _ in range(STEPS):
        run.step()
    return run


def noisy() -> Run:
    run = Run(drop=0.1)
    for _ in range(STEPS):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = run.loss()
        run.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(run.encoder.parameters(), 0.5)
        run.optimizer.step()
        run.update()
        run.losses.append(loss.item())
    return run


def compiled() -> Run:
    run = Run(drop=0.1)
    encoder = torch.compile(run.encoder, backend="eager")
    for _ in range(STEPS):
        loss = run.loss(encoder)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        run.update()
        run.losses.append(loss.item())
    return run


def scaler() -> Run:
    run = Run()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=4)
    for _ in range(STEPS):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = run.loss()
        run.optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(run.optimizer)
        torch.nn.utils.clip_grad_norm_(run.encoder.parameters(), 0.5)
        before = scaler.get_scale()
        scaler.step(run.optimizer)
        scaler.update()
        if scaler.get_scale() >= before:
            run.update()
        run.losses += [loss.item(), scaler.get_scale()]
    return run


def checkpointed() -> Run:
    run = Run(drop=0.1)

    def encoder(images: Tensor, index: Tensor) -> Tensor:
        return checkpoint(run.encoder, images, index, use_reentrant=False)

    for _ in range(STEPS):
        loss = run.loss(encoder)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        run.update()
        run.losses.append(loss.item())
    return run


def closure() -> Run:
    """The optimizer computes the gradients itself."""
    run = Run(drop=0.1)

    def gradients() -> Tensor:
        run.optimizer.zero_grad()
        loss = run.loss()
        loss.backward()
        run.losses.append(loss.item())
        return loss

    for _ in range(STEPS):
        run.optimizer.step(gradients)
        run.update()
    return run


def counting() -> Run:
    """The program counts its operations with a dispatch mode of its own, around each step."""
    run = Run()
    for _ in range(STEPS):
        with FlopCounterMode(display=False) as counter:
            run.step()
        run.losses.append(counter.get_total_flops())
    assert _get_current_dispatch_mode() is None
    return run


def lightning() -> Run:
    import lightning
    from torch.utils.data import DataLoader

    warnings.filterwarnings("ignore")
    run = Run(drop=0.1)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.predictor, self.teacher = run.encoder, run.predictor, run.teacher

        def training_step(self, batch: Tensor, number: int) -> Tensor:
            loss = run.loss()
            run.losses.append(loss.item())
            return loss

        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            super().optimizer_step(*args, **kwargs)
            run.update()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return run.optimizer

    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=STEPS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=0.5,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(torch.randn(STEPS * 4, 1), batch_size=4, shuffle=True))
    return run


LOOPS = {
    loop.__name__: loop for loop in (ijepa, noisy, compiled, scaler, checkpointed, closure, counting, lightning)
}  # fmt: skip


def rows() -> list[Any]:
    found = []
    for name in LOOPS:
        for deep in (False, True):
            quick = name == "scaler" if deep else name == "noisy"
            marks = [] if quick else [pytest.mark.slow]
            if name == "lightning":
                marks.append(pytest.mark.skipif(not HAS_LIGHTNING, reason="lightning is not installed"))
            found.append(pytest.param(name, deep, id=f"{name}{'-deep' * deep}", marks=marks))
    return found


@pytest.fixture(scope="session")
def unaudited(tmp_path_factory):
    """Return what each loop computes by itself; computed once."""
    known: dict[str, dict[str, Any]] = {}

    def result(name: str) -> dict[str, Any]:
        if name not in known:
            file = tmp_path_factory.mktemp("plain") / "state.pt"
            ran = plain_script(__file__, name, file)
            assert ran.code == 0, ran
            known[name] = torch.load(file)
        return known[name]

    return result


@pytest.mark.parametrize(("name", "deep"), rows())
def test_an_audited_run_is_the_unaudited_one_bit_for_bit(name, deep, unaudited, tmp_path):
    file = tmp_path / "state.pt"
    ran = audited_script(*["--deep"] * deep, "--spec", "custom", "--momentum", "0.99", __file__, name, file)
    assert file.exists() and ran.report is not None, ran
    assert ran.report["steps"] == 20 and ran.report["measured"]["momentum"], ran  # it did watch
    alike(torch.load(file), unaudited(name))


def alike(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Fail with the name of the first value that differs in any bit."""
    first, second = flat(a), flat(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        other = second[name]
        if isinstance(value, Tensor):
            assert value.dtype == other.dtype and value.shape == other.shape, name
            assert value.numpy().tobytes() == other.numpy().tobytes(), name
        else:
            assert value == other, name


# ---------------------------------------------------------------------- nothing is left behind


def installed() -> dict[str, Any]:
    """Return everything that an audit may hook or replace, as it is now."""
    tables = {
        name: dict(table)
        for owner in (module_hooks, optimizer_hooks)
        for name, table in vars(owner).items()
        if name.startswith("_global") and isinstance(table, dict)
    }
    assert len(tables) >= 8, "torch keeps its global hooks elsewhere now"
    functions = {
        "backward": torch.autograd.backward,
        "unscale": torch.amp.GradScaler.unscale_,
        "step": torch.amp.GradScaler.step,
        "train": nn.Module.train,
    }
    for owner in (torch.nn.utils, torch.nn.utils.clip_grad):
        for name in CLIPPING:
            functions[f"{owner.__name__}.{name}"] = getattr(owner, name, None)
    return {**tables, **functions, "mode": _get_current_dispatch_mode()}


def of_modules(*modules: nn.Module) -> list[int]:
    """Return the number of hooks in each table of each module."""
    return [
        len(table)
        for module in modules
        for inner in module.modules()
        for name, table in vars(inner).items()
        if "hooks" in name and isinstance(table, dict)
    ]


@pytest.mark.parametrize("deep", [False, True])
def test_nothing_is_left_after_the_window_while_the_program_goes_on(deep):
    before, run = installed(), Run()
    own = of_modules(run.encoder, run.teacher)
    audit = TeacherAudit(run.encoder, run.teacher, run.optimizer, steps=5, deep=deep)
    audit.start()
    assert installed() != before
    for _ in range(6):  # the window closes at the first event after its last step
        run.step()
    assert audit.finished
    assert installed() == before
    assert of_modules(run.encoder, run.teacher) == own
    assert all(not table for p in run.encoder.parameters() for table in [p._backward_hooks or {}])
    audit.stop()
    assert installed() == before
    assert audit.report().steps == 5


@pytest.mark.parametrize("steps", [0, 1, 3], ids=["no step", "one step", "while tracing"])
def test_nothing_is_left_after_an_early_end(steps):
    before, run = installed(), Run()
    with TeacherAudit(run.encoder, run.teacher, run.optimizer, steps=20) as audit:
        for _ in range(steps):
            run.step()
    assert installed() == before
    assert audit.report().steps == steps


def test_nothing_is_left_when_nothing_was_found():
    before = installed()
    lone = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(lone.parameters(), lr=0.1)
    with TeacherAudit() as audit:
        for _ in range(7):
            lone(torch.randn(2, 3)).sum().backward()
            optimizer.step()
        assert installed() == before, "it gives up after some steps"
    assert audit.report().steps == 0
    assert installed() == before


def test_hooks_of_the_program_behind_ours_are_called_while_ours_go():
    """An ordered dictionary that is changed while torch goes through it ends the program with an error."""
    run, called = Run(), []
    with TeacherAudit(run.encoder, run.teacher, run.optimizer, steps=2) as audit:
        theirs = optimizer_hooks.register_optimizer_step_pre_hook(lambda *_: called.append(1))
        for _ in range(4):
            run.optimizer.step()  # without a forward the window closes inside the hooks of a step
        assert len(called) == 4 and audit.finished
        theirs.remove()


@pytest.fixture
def restored():
    """Repair afterwards what an audit has left in torch, for the tests that follow."""
    before = installed()
    yield before
    torch.autograd.backward = before["backward"]
    torch.amp.GradScaler.unscale_, torch.amp.GradScaler.step = before["unscale"], before["step"]
    for owner in (torch.nn.utils, torch.nn.utils.clip_grad):
        for name in CLIPPING:
            if before[f"{owner.__name__}.{name}"] is not None:
                setattr(owner, name, before[f"{owner.__name__}.{name}"])
    while _get_current_dispatch_mode() is not before["mode"]:
        _pop_mode()
    assert installed() == before


@pytest.mark.parametrize("first", ["outer", "inner"])
def test_two_audits_at_once_leave_nothing(first, restored):
    run = Run()
    short, long = (5, 8) if first == "outer" else (8, 5)
    outer = TeacherAudit(run.encoder, run.teacher, run.optimizer, steps=short)
    inner = TeacherAudit(run.encoder, run.teacher, run.optimizer, steps=long)
    outer.start()
    inner.start()
    for _ in range(10):
        run.step()
    assert outer.finished and inner.finished
    assert [audit.report().steps for audit in (outer, inner)] == [short, long]
    assert installed() == restored


class Seen(TorchDispatchMode):
    """Notes every operation, as a mode of the program."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Called(TorchFunctionMode):
    """Notes every function of torch that is called, as a mode of the program."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("around", ["each step", "all steps"])
@pytest.mark.parametrize("kind", [Seen, Called])
def test_modes_of_the_program_see_what_they_would_see_without_an_audit(kind, around, restored):
    def noted(audited: bool) -> list[str]:
        run, mode = Run(), kind()
        whole, each = (mode, contextlib.nullcontext()) if around == "all steps" else (contextlib.nullcontext(), mode)
        audit = TeacherAudit(run.encoder, run.teacher, run.optimizer, steps=4, deep=True)
        if audited:
            audit.start()
        with whole:
            for _ in range(6):
                with each:
                    run.step()
        if audited:
            assert audit.finished and audit.report().steps == 4
        return [name for name in mode.names if " at 0x" not in name]

    alone = noted(audited=False)
    assert len(alone) > 1000
    assert noted(audited=True) == alone


def test_the_program_may_replace_the_same_functions_meanwhile(monkeypatch):
    before, run, calls = installed(), Run(), []
    with TeacherAudit(run.encoder, run.teacher, run.optimizer, steps=20):
        during = torch.nn.utils.clip_grad_norm_
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a, **k: calls.append(1) or during(*a, **k))
        for _ in range(3):
            run.step()
            torch.nn.utils.clip_grad_norm_(run.encoder.parameters(), 1.0)
        monkeypatch.undo()
    assert calls == [1, 1, 1]
    assert installed() == before


# ---------------------------------------------------------------------- copies, memory, exceptions


def test_networks_can_be_copied_and_pickled_during_the_audit():
    run = Run()
    with TeacherAudit(run.encoder, run.teacher, run.optimizer, steps=20) as audit:
        for step in range(6):  # some of them traced
            run.step()
            twins = copy.deepcopy(run.encoder), pickle.loads(pickle.dumps(run.encoder))
            for twin in twins:
                alike(twin.state_dict(), run.encoder.state_dict())
                assert of_modules(twin) == of_modules(run.encoder)
            assert copy.deepcopy(run.optimizer).state_dict().keys() == run.optimizer.state_dict().keys(), step
            pickle.dumps((run.teacher, run.optimizer))
    assert audit.report().steps == 6
    assert not audit.report().failures


@pytest.mark.parametrize("other", ["copy of the student", "slower average", "frozen guide"])
def test_another_network_of_the_same_class_does_not_become_the_teacher(other):
    """Evaluation runs on a copy, on a second average, or targets come from a third network besides."""
    run = Run()
    third = copy.deepcopy(run.encoder).requires_grad_(False).eval()
    with TeacherAudit(run.encoder, run.teacher, run.optimizer, steps=20) as audit:
        for step in range(10):
            run.step()
            if other == "copy of the student":
                third = copy.deepcopy(run.encoder).eval()
            elif other == "slower average":
                for t, s in zip(third.parameters(), run.encoder.parameters(), strict=True):
                    t.data.mul_(0.999).add_(s.data, alpha=0.001)
            if step % 2 or other == "frozen guide":
                with torch.no_grad():
                    third(random_images())
    report = audit.report()
    assert not {finding.rule for finding in report.failures} & {"teacher-replaced", "never-updated"}
    assert report.measured.momentum == pytest.approx([0.99] * 10, abs=1e-6)


@pytest.mark.parametrize("first", [1, 4])
def test_a_copy_that_runs_in_its_place_becomes_the_teacher(first):
    run = Run()
    with TeacherAudit(run.encoder, run.teacher, run.optimizer, steps=20) as audit:
        for step in range(8):
            if step >= first:
                run.teacher = copy.deepcopy(run.encoder).requires_grad_(False)
            run.step()
    finding = next(finding for finding in audit.report().failures if finding.rule == "teacher-replaced")
    assert finding.evidence["steps"][0] == first and len(finding.evidence["steps"]) >= 8 - first - 1


@pytest.mark.parametrize("taken", [False, True], ids=["left", "taken by hooks"])
def test_the_students_backward_is_told_from_that_of_other_networks(taken):
    run, other = Run(), nn.Linear(4, 4)
    held: dict[nn.Parameter, Tensor] = {}

    def take(parameter: nn.Parameter) -> None:
        held[parameter], parameter.grad = parameter.grad, None

    if taken:
        for parameter in run.encoder.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(take)
    with TeacherAudit(run.encoder, run.teacher, run.optimizer, steps=20) as audit:
        for _ in range(3):
            other(torch.ones(2, 4)).sum().backward()
            run.optimizer.zero_grad()
            run.loss().backward()
            other(torch.ones(2, 4)).sum().backward()
            for parameter, gradient in held.items():
                parameter.grad = gradient
            run.optimizer.step()
            run.update()
    report = audit.report()
    passes = [entry.what for entry in report.timeline if entry.what.startswith("backward")]
    assert passes == ["backward of other networks", "backward", "backward of other networks"] * 3
    assert not report.failures, [finding.saw for finding in report.failures]


@pytest.mark.parametrize("deep", [False, True])
def test_activations_and_losses_die_when_the_program_drops_them(deep):
    run, seen = Run(), []
    with TeacherAudit(run.encoder, run.teacher, run.optimizer, steps=5, deep=deep) as audit:
        gc.disable()  # no help from the collector: memory is free when the program lets go of it
        try:
            for step in range(8):
                images = random_images()
                context_index, target_index = random_masks()
                output = run.teacher(images)
                target = gather(output, target_index)
                encoded = run.encoder(images, context_index)
                predicted = run.predictor(encoded, context_index, target_index)
                loss = F.smooth_l1_loss(predicted, target)
                run.optimizer.zero_grad()
                loss.backward()
                run.optimizer.step()
                run.update()
                seen = [weakref.ref(t) for t in (images, context_index, output, target, encoded, predicted, loss)]
                del images, context_index, target_index, output, target, encoded, predicted, loss
                assert [reference() for reference in seen] == [None] * 7, f"kept alive after step {step}"
        finally:
            gc.enable()
    assert audit.report().steps == 5


def test_a_report_keeps_no_network_alive():
    run = Run()
    with TeacherAudit(run.encoder, run.teacher, run.optimizer, steps=5) as audit:
        for _ in range(8):
            run.step()
    report = audit.report()
    references = [weakref.ref(t) for t in (run.encoder, run.teacher, run.optimizer, *run.encoder.parameters())]
    del run, audit
    gc.collect()
    assert all(reference() is None for reference in references)
    assert report.steps == 5 and report.to_markdown()


def test_a_finished_audit_keeps_no_network_alive():
    run = Run()
    audit = TeacherAudit(run.encoder, run.teacher, run.optimizer, steps=5)
    audit.start()
    for _ in range(8):
        run.step()
    assert audit.finished
    references = [weakref.ref(t) for t in (run.encoder, run.teacher, *run.encoder.parameters())]
    del run
    gc.collect()
    assert all(reference() is None for reference in references), "memory of the program that it gave back"
    assert audit.report().steps == 5


class Own(Exception):
    """An error of the program."""


@pytest.mark.parametrize("where", ["loop", "forward", "teacher", "backward", "step", "update"])
@pytest.mark.parametrize("at", [0, 2])
def test_an_exception_of_the_program_passes_through_unchanged(where, at):
    before, run, error = installed(), Run(), Own("mine")

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    with pytest.raises(Own) as caught, TeacherAudit(run.encoder, run.teacher, run.optimizer, steps=20):
        for step in range(5):
            if step == at:
                if where == "loop":
                    fail()
                elif where == "forward":
                    run.encoder.blocks[1].register_forward_pre_hook(fail)
                elif where == "teacher":
                    run.teacher.blocks[1].register_forward_pre_hook(fail)
                elif where == "backward":
                    run.encoder.norm.weight.register_hook(fail)
                elif where == "step":
                    run.optimizer.register_step_pre_hook(fail)
                else:
                    run.update = fail
            run.step()
    assert caught.value is error
    assert error.__cause__ is None and error.__context__ is None
    assert installed() == before


def test_a_program_that_survives_its_errors_is_still_measured():
    run, left = Run(), {2: run_error, 4: run_error}
    handle = None
    with TeacherAudit(run.encoder, run.teacher, run.optimizer, "ijepa", steps=20) as audit:
        for step in range(12):
            fail = left.pop(step, None)
            if fail is not None:
                handle = (run.encoder if step == 2 else run.teacher).blocks[1].register_forward_pre_hook(fail)
                with pytest.raises(Own):
                    run.loss()
                handle.remove()
            run.step()
    report = audit.report()
    assert report.steps == 12 and len(report.measured.momentum) == 12
    assert report.measured.lag == 0.0
    forwards = next(finding for finding in report.findings if finding.rule == "stale-student").evidence["forwards"]
    assert forwards >= 9, "of the 11 after the first step at most the 2 beside the errors may be missed"
    assert report.measured.momentum == pytest.approx([0.99] * 12, abs=1e-6)


def run_error(*args: object) -> None:
    raise Own("out of memory, say")


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = LOOPS[sys.argv[1]]().everything()
    torch.save(result, Path(sys.argv[2]))
