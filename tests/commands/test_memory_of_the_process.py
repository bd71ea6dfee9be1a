"""Commands that encode many images keep freed memory: to ask the system for it again takes page faults."""

import platform
import subprocess
import sys

import pytest
from commands import environment

SCRIPT = """
import resource, sys
import torch
from hjepa.cli import dispatch

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(30):
        held = [torch.ones(3_000_000) for _ in range(4)]  # 12 MB each, as the hidden layers of a block
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
