"""Commands that encode many images keep freed memory: to ask the system for it again takes page faults."""

import platform
import subprocess
import sys

import pytest
from commands import environment

SCRIPT = """
import ctypes, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a fault for every page, also where pages can be huge
import torch
from hjepa.cli import dispatch

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(30):
        held = torch.ones(10_000_000)  # 40 MB: by itself glibc returns what is larger than 32
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
dispatch._dispatch = lambda arguments: print(faults()) or 0
dispatch.main(sys.argv[1:])
"""


def faults_of(command: str, **variables: str) -> int:
    words = [sys.executable, "-c", SCRIPT, command]
    done = subprocess.run(words, env=environment(**variables), capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_memory_is_kept_by_commands_that_encode_images_and_by_no_other():
    usual = faults_of("check")
    assert faults_of("evaluate") < 0.2 * usual
    assert faults_of("evaluate", MALLOC_PERTURB_="0") > 0.8 * usual  # the user's own settings of glibc stay
