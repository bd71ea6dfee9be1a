"""Callbacks: the part without a framework, then real trainers of Lightning and transformers."""

import copy
import importlib.util
import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from commands import environment
from loop_parts.tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks

from hjepa.audit import callbacks, specs
from hjepa.audit.callbacks import LoopAudit
from hjepa.audit.tell.report import ConformanceError

STEPS = 30
WATCHED = 8
SPEC = specs.ijepa(STEPS)
has_lightning = importlib.util.find_spec("lightning") is not None
has_transformers = importlib.util.find_spec("transformers") is not None


class Networks(nn.Module):
    """A tiny I-JEPA with its update, for every trainer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.predictor = Predictor()
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        self.updates = 0

    def loss(self, images: Tensor) -> Tensor:
        context_index, target_index = random_masks(len(images))
        with torch.no_grad():
            target = gather(F.layer_norm(self.target(images), (WIDTH,)), target_index)
        predicted = self.predictor(self.encoder(images, context_index), context_index, target_index)
        return F.smooth_l1_loss(predicted, target)

    @torch.no_grad()
    def update(self) -> None:
        momentum = 0.996 + 0.004 * self.updates / STEPS
        self.updates += 1
        for t, s in zip(self.target.parameters(), self.encoder.parameters(), strict=True):
            t.mul_(momentum).add_(s, alpha=1 - momentum)

    def trained(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.predictor.parameters()]


def failed(report: Any) -> list[str]:
    return sorted(finding.rule for finding in report.failures)


def hooks() -> list[int]:
    """Return how many global hooks there are, and whether backward is PyTorch's own."""
    return [
        len(module_hooks._global_forward_pre_hooks),
        len(module_hooks._global_forward_hooks),
        len(optimizer_hooks._global_optimizer_pre_hooks),
        len(optimizer_hooks._global_optimizer_post_hooks),
        torch.autograd.backward.__module__ == "torch.autograd",
    ]


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = hooks()
    yield
    assert hooks() == before


# ------------------------------------------------------------------ without a framework


def train(
    audit: LoopAudit, *, steps: int = STEPS, stale: bool = False, error_at: int = -1, batches: int = 1
) -> list[bool]:
    """Train as a trainer would; return after each step whether there was a report."""
    torch.manual_seed(0)
    model = Networks()
    optimizer = torch.optim.AdamW(model.trained(), lr=1e-3)
    audit.begin(model)
    reported = []
    for step in range(steps):
        if step == error_at:
            raise ArithmeticError("the run's own")
        optimizer.zero_grad()
        for _ in range(batches):
            (model.loss(random_images()) / batches).backward()
        if stale:
            model.update()
        optimizer.step()
        if not stale:
            model.update()
        audit.look_in()
        reported.append(audit.report is not None)
    audit.end()
    return reported


def test_it_reports_when_the_window_is_over_and_writes_what_was_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    audit = LoopAudit("encoder", "target", SPEC, steps=WATCHED, json="a.json", markdown="a.md", html="a.html")
    monkeypatch.chdir("/")  # files are meant as seen from where the callback was made
    reported = train(audit)
    assert reported.index(True) == WATCHED, "the step after the last one that is watched"
    assert audit.report.verdict == "conforms", audit.report.summary()
    assert (audit.report.subject.student, audit.report.subject.teacher) == ("encoder", "target")
    said = capsys.readouterr()
    assert said.err.count("hjepa audit: CONFORMS") == 1 and not said.out
    assert json.loads((tmp_path / "a.json").read_text())["steps"] == WATCHED
    assert "`encoder`" in (tmp_path / "a.md").read_text() and (tmp_path / "a.html").stat().st_size > 1000


def test_a_run_shorter_than_the_window_is_reported_at_its_end(capsys):
    audit = LoopAudit("encoder", "target", SPEC, steps=20)
    assert not any(train(audit, steps=6))
    assert audit.report.steps == 6 and "CONFORMS" in capsys.readouterr().err


def test_only_a_callback_that_was_asked_to_fails_the_run():
    lenient = LoopAudit("encoder", "target", SPEC, steps=WATCHED)
    train(lenient, stale=True)
    assert failed(lenient.report) == ["stale-student"]
    strict = LoopAudit("encoder", "target", SPEC, steps=WATCHED, fail=True)
    with pytest.raises(ConformanceError, match=r"stale-student \(minor\) at .*test_callbacks\.py:\d+"):
        train(strict, stale=True)
    strict.end()  # a trainer that ends twice is not told twice


def test_an_error_of_the_run_stays_the_error_of_the_run():
    audit = LoopAudit("encoder", "target", SPEC, steps=20, fail=True)
    with pytest.raises(ArithmeticError):
        train(audit, stale=True, error_at=4)
    audit.end(error=True)
    assert failed(audit.report) == ["stale-student"]


def test_a_second_run_begins_afresh_also_after_an_error():
    audit = LoopAudit("encoder", "target", SPEC, steps=WATCHED)
    train(audit, stale=True)
    with pytest.raises(ArithmeticError):
        train(audit, error_at=3)
    assert audit.report is None
    train(audit)
    assert audit.report.verdict == "conforms" and audit.report.steps == WATCHED


def test_the_first_step_of_several_batches_is_not_taken_for_a_skipped_one():
    audit = LoopAudit("encoder", "target", SPEC, steps=WATCHED)
    train(audit, stale=True, batches=2)
    assert failed(audit.report) == ["stale-student"]


def test_modules_are_found_in_every_way():
    model = Networks()
    inside = callbacks._modules(nn.ModuleDict({"module": model}), "encoder")  # as behind DDP
    assert inside is model.encoder
    assert callbacks._modules(model, lambda whole: whole.target) is model.target
    assert callbacks._modules(model, model.predictor) is model.predictor
    assert callbacks._modules(model, "encoder.blocks.1") is model.encoder.blocks[1]
    both = callbacks._modules(model, ["encoder", lambda whole: whole.predictor])
    assert both == [model.encoder, model.predictor]
    assert callbacks._modules(model, None) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"student": "encoder"}, "give both student and teacher, or neither"),
        ({"spec": "ijpea"}, "unknown profile 'ijpea'.*'ijepa'"),
        ({"steps": 1}, "steps = 1: watch at least 2 optimizer steps"),
        ({"json": "nowhere/a.json"}, "json nowhere/a.json: the folder .*nowhere does not exist"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_used_is_refused_before_training(arguments, said):
    said = said.replace("json nowhere", "json .*nowhere")
    with pytest.raises(ValueError, match=f"^{said}"):
        LoopAudit(**arguments)


def test_a_name_that_leads_nowhere_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"^Networks has no module 'teacher'; .* encoder, encoder.patch_embed"):
        LoopAudit("encoder", "teacher").begin(Networks())
    with pytest.raises(ValueError, match="list, not a module"):
        LoopAudit("encoder", lambda model: [model.target]).begin(Networks())


def test_importing_callbacks_imports_no_framework():
    code = (
        "import sys; import hjepa.audit.callbacks; print({'lightning', 'pytorch_lightning', 'transformers', 'pytest'}"
        " & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "modules", "package"),
    [
        ("LightningAudit", ["lightning", "lightning.pytorch", "pytorch_lightning"], "lightning"),
        ("TransformersAudit", ["transformers"], "transformers"),
    ],
)
def test_without_its_framework_a_callback_says_what_to_install(monkeypatch, name, modules, package):
    monkeypatch.delitem(vars(callbacks), name, raising=False)
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    expected = f"{name} needs {package}, which is not installed: pip install {package}"
    with pytest.raises(ImportError, match=f"^{expected}$"):
        getattr(callbacks, name)


def test_a_framework_that_is_broken_is_not_called_missing(monkeypatch, tmp_path):
    (tmp_path / "transformers.py").write_text("import something_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(vars(callbacks), "TransformersAudit", raising=False)
    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    with pytest.raises(ModuleNotFoundError, match="something_that_is_not_there"):
        _ = callbacks.TransformersAudit


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="no attribute 'KerasAudit'"):
        _ = callbacks.KerasAudit


# ------------------------------------------------------------------ Lightning

needs_lightning = [
    pytest.mark.slow,  # the import of Lightning alone takes seconds
    pytest.mark.skipif(not has_lightning, reason="lightning is not installed"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The 'val_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
]


def lightning_module(update: str) -> Any:
    """Return a LightningModule that updates its teacher in the hook ``update``."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.networks = Networks()

        def training_step(self, images: Tensor, batch_idx: int) -> Tensor:
            if self.fails_at == self.global_step:
                raise ArithmeticError("the run's own")
            return self.networks.loss(images)

        def validation_step(self, images: Tensor, batch_idx: int) -> Tensor:
            return self.networks.loss(images)

        def on_train_batch_end(self, *_: Any) -> None:
            if update == "on_train_batch_end" and self.global_step > self.networks.updates:
                self.networks.update()

        def on_before_optimizer_step(self, *_: Any) -> None:
            if update == "on_before_optimizer_step":
                self.networks.update()

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["updates"] = self.networks.updates

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.networks.updates = checkpoint["updates"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.networks.trained(), lr=1e-3)

    torch.manual_seed(0)
    module = Module()
    module.fails_at = -1
    return module


def images(count: int, *, shuffle: bool) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(list(random_images(count)), batch_size=16, shuffle=shuffle)


def fit(callback: Any, update: str, *, steps: int = STEPS, checkpoint: Any = None, **how: Any) -> Any:
    """Run a real trainer with accumulation over two batches and validation; return (trainer, module)."""
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # its handler keeps the first test's stderr
    module = lightning_module(update)
    module.fails_at = how.pop("fails_at", -1)
    torch.manual_seed(1)
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=steps, accumulate_grad_batches=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[callback] if callback else [], **how,
    )  # fmt: skip
    trainer.fit(module, images(160, shuffle=True), images(32, shuffle=False), ckpt_path=checkpoint)
    return trainer, module


def lightning_audit(**how: Any) -> Any:
    how = {"student": "networks.encoder", "teacher": "networks.target", "spec": SPEC, "steps": WATCHED} | how
    return callbacks.LightningAudit(**how)


class TestLightning:
    pytestmark = needs_lightning

    @pytest.mark.parametrize("named", [True, False], ids=["named", "discovered"])
    def test_a_right_loop_conforms(self, named, capfd):
        audit = lightning_audit() if named else lightning_audit(student=None, teacher=None)
        fit(audit, "on_train_batch_end")
        assert audit.report.verdict == "conforms", audit.report.summary()
        assert audit.report.measured.order in ("A", "B") and audit.report.measured.updates_per_step == 1.0
        assert audit.report.subject.student.endswith("networks.encoder")
        assert capfd.readouterr().err.count("hjepa audit:") == 1

    @pytest.mark.parametrize("named", [True, False], ids=["named", "discovered"])
    def test_a_stale_update_is_found_in_its_place(self, named):
        audit = lightning_audit() if named else lightning_audit(student=None, teacher=None)
        fit(audit, "on_before_optimizer_step")
        assert failed(audit.report) == ["stale-student"]
        place = audit.report.failures[0].location
        line = Path(__file__).read_text().splitlines()[int(place.rsplit(":", 1)[1]) - 1]
        assert "test_callbacks.py" in place and "t.mul_(momentum)" in line

    def test_training_is_the_same_to_the_last_bit(self):
        ended = []
        for audit in (None, lightning_audit(), lightning_audit(student=None, teacher=None, deep=True)):
            _, module = fit(audit, "on_train_batch_end")
            ended.append([*module.state_dict().values(), torch.get_rng_state()])
        for other in ended[1:]:
            assert all(torch.equal(a, b) for a, b in zip(ended[0], other, strict=True))

    def test_fail_ends_the_run_with_the_failures_and_without_it_the_run_ends_well(self):
        audit = lightning_audit(fail=True)
        with pytest.raises(ConformanceError, match="stale-student"):
            fit(audit, "on_before_optimizer_step")
        assert failed(audit.report) == ["stale-student"]
        fit(lightning_audit(fail=True), "on_train_batch_end")

    def test_an_error_in_training_leaves_no_hooks_and_a_report(self):
        audit = lightning_audit(steps=20, fail=True)
        with pytest.raises(ArithmeticError):
            fit(audit, "on_train_batch_end", fails_at=5)
        assert audit.report.steps == 5

    def test_a_resumed_run_is_compared_from_where_it_goes_on(self, tmp_path):
        trainer, _ = fit(None, "on_train_batch_end", steps=10)
        trainer.save_checkpoint(tmp_path / "ten.ckpt")
        audit = lightning_audit()
        fit(audit, "on_train_batch_end", checkpoint=tmp_path / "ten.ckpt")
        assert audit.report.verdict == "conforms", audit.report.summary()
        assert audit.report.measured.momentum[0] == pytest.approx(0.996 + 0.004 * 10 / STEPS, abs=1e-6)
        wrong = lightning_audit(start_step=0)  # the check is one: told another start, it does not conform
        fit(wrong, "on_train_batch_end", checkpoint=tmp_path / "ten.ckpt")
        assert wrong.report.verdict != "conforms"

    def test_under_its_other_name_it_is_a_callback_of_that_package(self):
        code = (
            "import sys, pytorch_lightning; from hjepa.audit.callbacks import LightningAudit\n"
            "print(issubclass(LightningAudit, pytorch_lightning.Callback), 'lightning.pytorch' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment()
        )
        assert done.stdout.split()[-2:] == ["True", "False"]

    def test_it_is_a_callback_that_pickles(self):
        import lightning

        audit = pickle.loads(pickle.dumps(lightning_audit()))
        assert isinstance(audit, lightning.Callback) and type(audit) is callbacks.LightningAudit


# ------------------------------------------------------------------ transformers

needs_transformers = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_transformers, reason="transformers is not installed"),
]


class Rows(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.images = random_images(160)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": self.images[index]}


class Loss(Networks):
    """What transformers' Trainer expects of a model."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"loss": self.loss(images)}


def transformers_train(folder: Path, audit: Any, event: str) -> Loss:
    import transformers

    class Update(transformers.TrainerCallback):
        pass

    def update(self: Any, args: Any, state: Any, control: Any, *, model: Loss, **_: Any) -> None:
        model.update()

    setattr(Update, event, update)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=8, gradient_accumulation_steps=2,
        learning_rate=1e-3, report_to=[], save_strategy="no", logging_strategy="no", use_cpu=True, disable_tqdm=True,
        remove_unused_columns=False, seed=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model, rows = Loss(), Rows()
    made = [Update()] + ([audit] if audit else [])
    transformers.Trainer(model, arguments, train_dataset=rows, callbacks=made).train()
    return model


def transformers_audit(**how: Any) -> Any:
    return callbacks.TransformersAudit(**({"student": "encoder", "teacher": "target", "spec": SPEC, "steps": 8} | how))


class TestTransformers:
    pytestmark = needs_transformers

    @pytest.mark.parametrize("named", [True, False], ids=["named", "discovered"])
    def test_a_right_loop_conforms(self, tmp_path, named):
        audit = transformers_audit() if named else transformers_audit(student=None, teacher=None)
        transformers_train(tmp_path, audit, "on_optimizer_step")
        assert audit.report.verdict == "conforms", audit.report.summary()
        assert audit.report.measured.updates_per_step == 1.0

    def test_a_stale_update_is_found_and_can_end_the_run(self, tmp_path):
        audit = transformers_audit(fail=True)
        with pytest.raises(ConformanceError, match="stale-student"):
            transformers_train(tmp_path, audit, "on_pre_optimizer_step")
        assert "stale-student" in failed(audit.report)

    def test_training_is_the_same_to_the_last_bit(self, tmp_path):
        plain = transformers_train(tmp_path, None, "on_optimizer_step").state_dict()
        watched = transformers_train(tmp_path, transformers_audit(), "on_optimizer_step").state_dict()
        assert all(torch.equal(plain[name], watched[name]) for name in plain)
