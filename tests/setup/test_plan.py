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
from hjepa.config import Layer, resolve
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


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_estimate_is_within_a_factor_of_two_of_a_measurement(precision):
    sections = SIZES | {"optim": {"batch_size": 256}, "train": {"precision": precision}}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(sections)],
        capture_output=True, text=True, check=True, env=environment(PYTHONPATH=":".join(sys.path)),
    )  # fmt: skip
    measured, estimated = json.loads(done.stdout)
    assert 0.5 < estimated / measured < 2.0, (estimated, measured)


def test_accumulation_lowers_the_estimate_and_is_the_remedy_offered(monkeypatch):
    config = resolve_auto(tiny(**SIZES, optim={"batch_size": 4096}), pictures()).config
    masks = mask_shape(build_sampler(config), config)
    monkeypatch.setattr(memory, "available_memory_gb", lambda _: estimate_memory_gb(config, masks) / 3)
    with pytest.raises(UserError, match=r"optim\.batch_size = 4096: .* GB.* --optim\.accumulate [48]"):
        refuse_too_large(config, masks)
    whole = config.model_copy(update={"optim": config.optim.model_copy(update={"variance_covariance": 1.0})})
    with pytest.raises(UserError, match=r"free.*smaller model or image size, or a smaller --optim"):
        refuse_too_large(whole, masks)  # a batch whose images are all compared cannot be split
    monkeypatch.setattr(memory, "available_memory_gb", lambda _: 1000.0)
    refuse_too_large(config, masks)


def test_a_budget_becomes_the_steps_that_fit_into_it(monkeypatch):
    """With a clock that says half a second between two looks, a step takes half a second."""
    clock = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock) / 2)
    resolved = build(tiny(train={"steps": None, "budget": "1min"}), pictures()).resolved
    assert resolved.config.train.steps == 120
    assert resolved.origin["train.steps"] == "derived: 1min at 0.5 s per step, measured"


def test_a_run_with_a_budget_finishes_and_resumes_with_the_steps_it_began_with(tmp_path):
    without_steps = {k: v for k, v in TINY["train"].items() if k != "steps"}
    # The recipe that a budget chooses has levels up to its fourth block, and this encoder has two.
    settings = TINY | {"train": without_steps, "model": TINY["model"] | {"levels": None, "pixel_targets": "values"}}
    run = hjepa.pretrain(pictures(), out=tmp_path / "run", budget="1s", **settings)
    steps = run.summary()["steps"]
    text = (run.path / "config.yaml").read_text()
    assert re.search(rf"steps: {steps}  # derived: 1s at .* s per step, measured", text)
    again = hjepa.pretrain(pictures(), out=tmp_path / "run", budget="1s", resume=True, **settings)
    assert again.summary()["steps"] == steps


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([{"steps": 7}, {"epochs": 2}], (None, 2, None)),
        ([{"steps": 7}, {"budget": "2h"}], (None, 100, "2h")),
        ([{"epochs": 3}, {"budget": "2h"}, {"steps": 5}], (5, 100, None)),
        ([{"budget": "2h"}, {"budget": None, "steps": 5}], (5, 100, None)),
        ([{"steps": 7}, {"log_every": 2}], (7, 100, None)),
        ([{"steps": 7, "epochs": 3, "budget": "2h"}], (7, 3, "2h")),
    ],
)
def test_the_last_layer_that_says_how_long_takes_back_what_earlier_ones_said(layers, expected):
    resolved = resolve([Layer(f"layer {number}", {"train": values}) for number, values in enumerate(layers)])
    train = resolved.config.train
    assert (train.steps, train.epochs, train.budget) == expected
