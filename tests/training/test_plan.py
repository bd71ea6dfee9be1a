"""The memory estimate is of the size of what is really used."""

import json
import subprocess
import sys

import pytest
from commands import environment
from conftest import tiny
from runs import pictures

from hjepa.errors import UserError
from hjepa.training.plan import estimate_memory_gb, refuse_too_large
from hjepa.training.session import complete

SIZES = {
    "model": {"width": 192, "depth": 4, "heads": 3, "predictor_width": 96, "predictor_heads": 3, "patch_size": 4},
    "data": {"image_size": [32, 32]},
}

MEASURE = """
import json, sys
import torch
from conftest import tiny
from runs import pictures, trainer_of
from hjepa.training.plan import estimate_memory_gb
from hjepa.training.machine import memory_gb, peak_memory_gb
sections = json.loads(sys.argv[1])
trainer, batches, config = trainer_of(tiny(**sections), pictures(512, 32))
batch = next(batches)
before = memory_gb()
for _ in range(2):
    trainer.train_step(batch)
peak = peak_memory_gb(torch.device("cpu"))
print(json.dumps([peak - before, estimate_memory_gb(config)]))
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
    from hjepa.training import plan

    config = complete(tiny(**SIZES, optim={"batch_size": 4096}), pictures()).config
    monkeypatch.setattr(plan, "available_memory_gb", lambda _: estimate_memory_gb(config) / 3)
    with pytest.raises(
        UserError, match=r"optim\.batch_size = 4096: a step needs about .* use --optim\.accumulate [48]"
    ):
        refuse_too_large(config)
    monkeypatch.setattr(plan, "available_memory_gb", lambda _: 1000.0)
    refuse_too_large(config)
