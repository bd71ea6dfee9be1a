"""Loader workers on machines that have little shared memory, or a drive that has stalled."""

import itertools
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import environment

from hjepa.data.augment import Augment, ResizeToInput
from hjepa.data.loader import MicroBatchDataset, RankShard, micro_batches
from hjepa.errors import UserError

ROOT = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
BATCH, SIZE = 8, 64
CROPS = Augment(ResizeToInput((SIZE, SIZE), 3), None, (1, 1), flip=0.0)


class Stalling:
    """A source whose image 37 never arrives."""

    name = "a network drive"

    def __len__(self):
        return 64

    def __getitem__(self, index):
        if index == 37:
            time.sleep(600)
        return np.full((16, 16, 3), index, np.uint8)


class Deadly(Stalling):
    """A source that ends the worker which reads image 37."""

    def __getitem__(self, index):
        if index == 37:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def stream_of(source, workers: int):
    data = MicroBatchDataset(source, CROPS, seed=0, batch_size=BATCH, max_bad=0.0)
    return micro_batches(data, RankShard(BATCH), first_attempt=0, workers=workers)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def in_a_process(mode: str, *before: str) -> list[str]:
    """Run one of the functions below; a hang fails the test."""
    here, tests = Path(__file__), Path(__file__).parents[1]
    paths = os.pathsep.join([str(here.parent), str(tests), os.environ.get("PYTHONPATH", "")])
    words = [*before, sys.executable, str(here), mode]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=120, check=False, env=environment(PYTHONPATH=paths)
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.split()


def without_shared_memory() -> None:
    """Batches arrive when no file in /dev/shm may be as large as one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (BATCH * SIZE * SIZE * 3 - 1,) * 2)
    compare()


def compare() -> None:
    from runs import pictures

    streams = [stream_of(pictures(), workers) for workers in (0, 2)]
    for _ in range(4):
        assert torch.equal(next(streams[0]), next(streams[1]))
    say("equal")


@pytest.mark.slow
def test_batches_arrive_when_shared_memory_is_full():
    """Case 20."""
    assert in_a_process("without_shared_memory") == ["equal"]


@pytest.mark.skipif(not ROOT, reason="needs the right to mount a small /dev/shm")
@pytest.mark.slow
def test_batches_arrive_in_a_container_with_a_small_shared_memory():
    """Case 20."""
    mount = 'mount -t tmpfs -o size=160k tmpfs /dev/shm && exec "$@"'  # semaphores and one batch
    assert in_a_process("compare", "unshare", "-m", "sh", "-c", mount, "sh") == ["equal"]


@pytest.mark.skipif(not ROOT, reason="needs the right to mount a small /dev/shm")
@pytest.mark.slow
def test_without_any_shared_memory_one_line_says_what_to_do():
    """Case 20."""
    mount = 'mount -t tmpfs -o size=4k,nr_inodes=1 tmpfs /dev/shm && exec "$@"'
    words = in_a_process("refused", "unshare", "-m", "sh", "-c", mount, "sh")
    assert "/dev/shm" in words and words[-2:] == ["--data.workers", "0"]


def refused() -> None:
    try:
        compare()
    except UserError as error:
        say(str(error))


def test_a_worker_that_waits_for_ever_ends_with_the_stream():
    stream = stream_of(Stalling(), 2)
    assert len(next(stream)) == BATCH
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    started = time.monotonic()
    stream.close()
    for worker in workers:
        worker.join(4)
        assert not worker.is_alive()
    assert time.monotonic() - started < 4  # torch waits 10 s for each, and then leaves it


@pytest.mark.slow
def test_a_program_ends_although_a_worker_waits_for_ever():
    assert in_a_process("left_open") == ["open"]


def left_open() -> None:
    keep = stream_of(Stalling(), 2)
    next(keep)
    globals()["kept"] = keep
    say("open")


def test_workers_die_with_a_killed_parent(tmp_path):
    here = Path(__file__)
    paths = os.pathsep.join([str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, str(here), "tell_workers"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(PYTHONPATH=paths),
    )
    with parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    for pid in pids:
        assert gone(pid), "a loader worker outlived its parent"


def tell_workers() -> None:
    stream = stream_of(Stalling(), 2)
    next(stream)
    say(" ".join(str(child.pid) for child in multiprocessing.active_children()))
    time.sleep(60)


def gone(pid: int, seconds: float = 4.0) -> bool:
    """Return whether a process ends in time (a zombie, which nobody waits for, has ended)."""
    for _ in range(int(seconds / 0.05)):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_killed_worker_is_one_line():
    with pytest.raises(UserError, match=r"worker was killed.*memory.*/dev/shm.*--data\.workers 0$"):
        list(itertools.islice(stream_of(Deadly(), 1), 8))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
