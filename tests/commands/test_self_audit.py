"""Every run audits its own teacher; a broken update is found by it."""

import json

import pytest
import torch
from conftest import TINY

import hjepa
from hjepa.models.target import TargetEncoder

LONG = {**TINY, "train": {**TINY["train"], "length": 26}}


def run(tmp_path, settings=LONG, **how):
    hjepa.pretrain("scenes", out=tmp_path / "run", **settings, **how)
    return json.loads((tmp_path / "run/audit.json").read_text())


def fired(report):
    return {finding["rule"] for finding in report["findings"] if finding["status"] in ("fail", "warn")}


def test_a_run_audits_its_first_steps_and_conforms(tmp_path):
    report = run(tmp_path)
    assert (report["verdict"], report["steps"], fired(report)) == ("conforms", 20, set())
    assert report["measured"]["order"] == "A"
    assert report["measured"]["lag"] == 0
    assert report["measured"]["momentum"] == pytest.approx(report["measured"]["expected"], abs=1e-6)
    assert json.loads((tmp_path / "run/run.json").read_text())["audit"] == {
        "verdict": "conforms",
        "first_step": 1,
        "steps": 20,
    }
    assert "# Audit of a training loop: conforms" in (tmp_path / "run/audit.md").read_text()
    page = (tmp_path / "run/report.html").read_text()
    assert "Audit of the teacher's update" in page


def test_a_run_shorter_than_the_window_is_audited_at_its_end(tmp_path):
    assert run(tmp_path, TINY)["steps"] == TINY["train"]["length"]


@pytest.mark.slow
def test_with_accumulation_there_is_still_one_update(tmp_path):
    report = run(tmp_path, {**LONG, "optim": {**TINY["optim"], "accumulate": 2}})
    assert (report["verdict"], report["measured"]["updates_per_step"]) == ("conforms", 1)


def test_a_forgotten_update_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(TargetEncoder, "update", lambda self, context_encoder, momentum: None)
    report = run(tmp_path)
    assert report["verdict"] == "fails"
    assert "never-updated" in fired(report)


@pytest.mark.slow
def test_a_wrong_momentum_is_found(tmp_path, monkeypatch):
    right = TargetEncoder.update
    monkeypatch.setattr(TargetEncoder, "update", lambda self, encoder, momentum: right(self, encoder, momentum - 0.01))
    assert fired(run(tmp_path)) == {"momentum-mismatch"}


@pytest.mark.slow
def test_a_resumed_run_is_audited_from_its_step_on(tmp_path):
    hjepa.pretrain("scenes", out=tmp_path / "run", **TINY)
    hjepa.pretrain("scenes", out=tmp_path / "run", resume=True, extend_to=40)
    report = json.loads((tmp_path / "run/audit.json").read_text())
    assert report["measured"]["momentum_step"][0] == TINY["train"]["length"]
    assert fired(report) == set()


def test_the_audit_leaves_no_hook_behind(tmp_path):
    run(tmp_path)
    from torch.nn.modules import module
    from torch.optim import optimizer

    assert not module._global_forward_hooks and not module._global_forward_pre_hooks
    assert not optimizer._global_optimizer_pre_hooks and not optimizer._global_optimizer_post_hooks
    assert torch.autograd.backward.__module__ == "torch.autograd"


def verdict_of(out):
    return json.loads((out / "run.json").read_text())["audit"]


@pytest.mark.slow
def test_a_run_from_weights_may_start_with_a_teacher_of_its_own(tmp_path):
    hjepa.pretrain("scenes", out=tmp_path / "first", **LONG)
    report = run(tmp_path, init_from=tmp_path / "first")
    assert (report["verdict"], fired(report)) == ("conforms", set())


def test_the_record_says_what_the_report_says_also_of_short_runs(tmp_path):
    report = run(tmp_path, TINY)
    assert verdict_of(tmp_path / "run") == {"verdict": report["verdict"], "first_step": 1, "steps": 12}


def test_resuming_a_finished_run_keeps_its_report(tmp_path):
    before = run(tmp_path)
    hjepa.pretrain("scenes", out=tmp_path / "run", resume=True)
    assert json.loads((tmp_path / "run/audit.json").read_text()) == before
    assert verdict_of(tmp_path / "run")["steps"] == 20


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, 20, 25, 30, 45])
def test_a_run_resumed_anywhere_conforms(tmp_path, step):
    """Memory of a step before may lie where an input of the teacher lies now: that is no leak."""
    long = {**TINY, "train": {**TINY["train"], "length": 70, "keep_checkpoints": 30}}
    out = tmp_path / "run"
    hjepa.pretrain("scenes", out=out, **long)
    last = out / "checkpoints" / "last"
    last.unlink()
    last.symlink_to(f"step-{step:08d}")
    hjepa.pretrain("scenes", out=out, resume=True)
    report = json.loads((out / "audit.json").read_text())
    assert (report["verdict"], fired(report)) == ("conforms", set())
