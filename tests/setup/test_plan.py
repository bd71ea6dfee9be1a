"""The memory estimate is of the size of what is really used."""

import itertools
import json
import re
import subprocess
import sys

import pytest
from commands import environment
from conftest import TINY, tiny
from runs import pictures

import hjepa
from hjepa.errors import UserError
from hjepa.setup import memory, timing
from hjepa.setup.autoconfig import resolve_auto
from hjepa.setup.build import build, build_sampler
from hjepa.setup.memory import estimate_memory_gb, mask_shape, refuse_too_large

SIZES = {
    "model": {"width": 192, "depth": 4, "heads": 3, "predictor_width": 96, "predictor_heads": 3, "patch_size": 4},
    "data": {"image_size": [32, 32]},
}

MEASURE = """
import json, sys
import torch
from conftest import tiny
from runs import pictures
from hjepa.setup.build import build
from hjepa.setup.memory import estimate_memory_gb
from hjepa.setup.machine import memory_gb, peak_memory_gb
sections = json.loads(sys.argv[1])
parts = build(tiny(**sections), pictures(512, 32))
batch = next(parts.batches(0))
before = memory_gb()
for _ in range(2):
    parts.trainer.train_step(batch)
peak = peak_memory_gb(torch.device("cpu"))
print(json.dumps([peak - before, estimate_memory_gb(parts.resolved.config, parts.masks)]))
"""


# Without bf16 in the processor, a step of this size takes minutes.
@pytest.mark.parametrize(
    "train",
    [{"precision": "float32"}, {"precision": "bf16"}, {"precision": "float32", "activation_checkpointing": "on"}],
    ids=["float32", "bf16", "recomputed"],
)
@pytest.mark.slow
def test_estimate_is_within_a_factor_of_two_of_a_measurement(train):
    sections = SIZES | {"optim": {"batch_size": 256}, "train": train}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(sections)],
        capture_output=True, text=True, check=True, env=environment(PYTHONPATH=":".join(sys.path)),
    )  # fmt: skip
    measured, estimated = json.loads(done.stdout)
    assert 0.5 < estimated / measured < 2.0, (estimated, measured)


@pytest.mark.slow
def test_the_planned_memory_is_what_a_run_takes(tmp_path):
    """The peak of a whole run, with its checkpoints, its health and its verdict, is that of a few steps within 15 %."""
    settings = ["--train.precision", "float32", "--train.length", "12", "--optim.batch_size", "64"]
    command = [sys.executable, "-m", "hjepa.cli", "pretrain", "scenes", "--recipe", "demo", *settings]
    planned = subprocess.run(
        [*command, "--out", "planned", "--plan", "--json"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    peak = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
    peak += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    ran = subprocess.run(
        [sys.executable, "-c", peak, *command, "--out", "run"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    ratio = json.loads(planned.stdout)["plan"]["peak_memory_gb"] / (int(ran.stdout) / 2**20)
    assert 0.85 < ratio < 1.15


def test_accumulation_lowers_the_estimate_and_is_the_remedy_offered(monkeypatch):
    config = resolve_auto(tiny(**SIZES, optim={"batch_size": 4096}), pictures()).config
    masks = mask_shape(build_sampler(config), config)
    monkeypatch.setattr(memory, "available_memory_gb", lambda _: estimate_memory_gb(config, masks) / 3)
    with pytest.raises(UserError, match=r"optim\.batch_size = 4096: .* GB.* --optim\.accumulate [48]"):
        refuse_too_large(config, masks)
    whole = config.model_copy(update={"loss": config.loss.model_copy(update={"variance_covariance": 1.0})})
    with pytest.raises(UserError, match=r"free.*smaller model or image size, or a smaller --optim"):
        refuse_too_large(whole, masks)  # a batch whose images are all compared cannot be split
    recomputed = whole.model_copy(update={"train": whole.train.model_copy(update={"activation_checkpointing": "on"})})
    between = (estimate_memory_gb(whole, masks) + estimate_memory_gb(recomputed, masks)) / 2
    monkeypatch.setattr(memory, "available_memory_gb", lambda _: between)
    with pytest.raises(UserError, match=r"free; use --train\.activation_checkpointing on, or a smaller --optim"):
        refuse_too_large(whole, masks)
    refuse_too_large(recomputed, masks)
    monkeypatch.setattr(memory, "available_memory_gb", lambda _: 1000.0)
    refuse_too_large(config, masks)


def test_a_budget_becomes_the_steps_that_fit_into_it(monkeypatch):
    """With a clock that says half a second between two looks, a step takes half a second."""
    clock = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock) / 2)
    resolved = build(tiny(train={"length": "1min"}), pictures()).resolved
    assert resolved.config.horizon.steps == 120
    assert resolved.origin["horizon.steps"] == "derived: 1min at 0.5 s per step, measured"


def test_a_run_with_a_budget_finishes_and_resumes_with_the_steps_it_began_with(tmp_path):
    without_steps = {k: v for k, v in TINY["train"].items() if k != "length"}
    # The recipe that a budget chooses has levels up to its fourth block, and this encoder has two.
    settings = TINY | {"train": without_steps, "model": TINY["model"] | {"levels": None}}
    run = hjepa.pretrain(pictures(), out=tmp_path / "run", budget="1s", **settings)
    steps = run.summary()["steps"]
    text = (run.path / "config.yaml").read_text()
    assert re.search(rf"steps: {steps}  # derived: 1s (at .* s per step, measured|by the pace at step)", text)
    again = hjepa.pretrain(pictures(), out=tmp_path / "run", budget="1s", resume=True, **settings)
    assert again.summary()["steps"] == steps


@pytest.mark.parametrize(
    ("given", "length", "steps"),
    [
        (7, "7 steps", 7),
        ("7 steps", "7 steps", 7),
        ("1 step", "1 steps", 1),
        ("2 epochs", "2 epochs", 6),
        ("0.5 epochs", "0.5 epochs", 1),
        ("2epochs", "2 epochs", 6),
    ],
)
def test_a_length_in_steps_or_epochs_says_how_many_steps(given, length, steps):
    resolved = resolve_auto(tiny(train={"length": given}), pictures(24))  # three batches of 8
    assert (resolved.config.train.length, resolved.config.horizon.steps) == (length, steps)
    assert resolved.origin["horizon.steps"].startswith("derived: ")


@pytest.mark.parametrize("given", ["20 hours", "1.5 steps", "0", 0, -3, "0min", "soon", "20 min 3", [3, 4]])
def test_what_is_no_length_is_refused(given):
    with pytest.raises(UserError, match=r"^train\.length = .* such as 2340 steps, 300 epochs or 20min$"):
        tiny(train={"length": given})
