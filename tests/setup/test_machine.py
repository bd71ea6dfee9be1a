"""What is set up on the machine really happens."""

import itertools
import re
import subprocess
import sys

import pytest
import torch
from commands import environment

from hjepa.errors import UserError
from hjepa.setup import machine

FAULTS = """
import ctypes, resource, sys, torch
from hjepa.setup.machine import keep_freed_memory
if "user" not in sys.argv[1]:
    ctypes.CDLL(None).mallopt(-3, 65536)  # everything is asked of the system anew, whatever this glibc does by default
if "keep" in sys.argv[1]:
    keep_freed_memory()
def step():
    tensors = [torch.ones(3 * 2**20) for _ in range(12)]  # 12 MiB each, like activations
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str, **variables: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, mode],
        capture_output=True, text=True, check=True, env=environment(**variables),
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
@pytest.mark.slow
def test_freed_memory_is_used_again_without_asking_the_system():
    # 240 tensors of 3,072 pages each pass by.
    assert faults("asked anew") > 100_000
    assert faults("keep") < 10_000


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
@pytest.mark.slow
def test_a_users_choice_of_allocator_is_left_alone():
    assert faults("user keeps", MALLOC_MMAP_THRESHOLD_="65536") > 100_000


def test_other_work_during_one_turn_does_not_decide_for_a_kernel(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(machine.time, "perf_counter", lambda: clock[0])

    def rival(*seconds: float):
        turns = iter(seconds)

        def work() -> None:
            clock[0] += next(turns)

        return work

    # The first turn warms up. The machine is busy in the second round, for both: they take turns.
    slow, fast = machine._fastest([rival(9, 5, 30, 5), rival(9, 3, 20, 3)], 3)
    assert (slow, fast) == (5, 3)


def test_kernels_are_measured_on_one_thread_and_the_threads_are_given_back(monkeypatch):
    """Two runs of two threads each, started at once on two cores, both measured fused as the faster: it is not."""
    seen = []
    real = machine._fastest

    def watched(rivals, turns):
        seen.append(torch.get_num_threads())
        return real(rivals, 1)

    monkeypatch.setattr(machine, "_fastest", watched)
    torch.set_num_threads(2)
    kernel, reason = machine.choose_attention(
        "auto", device=torch.device("cpu"), precision="float32", shapes=[(4, 8, 16, 2)]
    )
    assert kernel in ("fused", "plain")
    assert "times as fast as the other" in reason
    assert seen == [1]
    assert torch.get_num_threads() == 2


def test_a_format_that_the_processor_lacks_is_told_by_a_small_product(monkeypatch):
    """One that runs at 1 GFLOP/s took 16 seconds at each start, at the size that suits the others."""
    monkeypatch.setattr(machine.time, "perf_counter", itertools.count().__next__)  # every product takes a second
    assert machine.matmul_speed(torch.bfloat16) == pytest.approx(2 * 128**3 / 1e9)


@pytest.mark.parametrize(
    ("threads", "policy", "said"), [(1, None, r"1$"), (2, "passive", "2; .* sleep"), (2, None, "2; .* spin.*PASS")]
)
def test_a_plan_says_what_threads_do_while_they_wait(threads, policy, said, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    torch.set_num_threads(threads)
    try:
        assert re.match(said, machine.threads_in_words(), flags=re.IGNORECASE)
    finally:
        torch.set_num_threads(before)


def test_what_is_captured_where_and_why():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert machine.choose_capture("auto", device=cpu, precision="bf16", processes=1) == (
        "off",
        "there are no CUDA graphs on cpu",
    )
    on, reason = machine.choose_capture("auto", device=cuda, precision="bf16", processes=1)
    assert on == "on" and "one for each shape" in reason
    for obstacle, words in (({"processes": 2}, "2 processes"), ({"precision": "fp16"}, "scaler")):
        given = {"device": cuda, "precision": "bf16", "processes": 1} | obstacle
        off, reason = machine.choose_capture("auto", **given)
        assert off == "off" and words in reason
        with pytest.raises(UserError, match=rf"train.capture = on: .*{words}.* use --train.capture auto"):
            machine.choose_capture("on", **given)
    assert machine.choose_capture("off", device=cuda, precision="bf16", processes=1) == ("off", "as requested")
