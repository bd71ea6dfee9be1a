"""The hardware: device, precision, attention kernels, memory."""

import contextlib
import ctypes
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from timm.models.vision_transformer import Block

from hjepa.errors import UserError
from hjepa.models.encoder import set_attention

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(wanted: str) -> torch.device:
    """Return the device to compute on; ``auto`` prefers CUDA, then MPS, then the CPU."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        wanted = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available.get(wanted):
        have = ", ".join(name for name, there in available.items() if there)
        raise UserError(f"train.device = {wanted}: not available on this machine, which has {have}")
    return torch.device(wanted)


def choose_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """Return (precision, reason). CPUs are measured: bf16 is chosen where its products are faster."""
    if wanted != "auto":
        _refuse_impossible(wanted, device)
        return wanted, "as requested"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "supported by the GPU"
        return "fp16", "the GPU does not support bf16; a gradient scaler is used"
    if device.type == "mps":
        return "float32", "the safe choice on MPS"
    ratio = matmul_speed(torch.bfloat16) / matmul_speed(torch.float32)
    if ratio > 1.3:
        return "bf16", f"its matrix products are {ratio:.1f} times as fast as in float32"
    return "float32", f"bf16 matrix products are only {ratio:.2g} times as fast"


def autocast_dtype(precision: str) -> torch.dtype | None:
    """Return the dtype for autocast, or None if everything has one dtype."""
    return DTYPES.get(precision)


def grad_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Return a gradient scaler, which does nothing except for fp16."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def choose_attention(
    wanted: str, *, device: torch.device, precision: str, shapes: list[tuple[int, int, int, int]]
) -> tuple[str, str]:
    """Return (kernel, reason); ``auto`` times a forward and backward pass of one block per shape.

    ``shapes`` are (sequences, tokens, width, heads) of the parts of the model. The kernels are timed alternately and
    the fastest run of each counts, so that other load on the machine does not decide for the whole run. For the same
    reason they run on one thread: threads that wait for each other measure other processes, not the kernel.
    """
    if wanted != "auto":
        return wanted, "as requested"
    if device.type != "cpu":
        return "fused", "the kernel optimised for this device"
    passes = {kind: [_block_pass(kind, precision, shape) for shape in shapes] for kind in ("fused", "plain")}
    seconds = dict.fromkeys(passes, 0.0)
    with _one_thread():
        for turns in zip(*passes.values(), strict=True):  # one shape, both kernels
            for kind, fastest in zip(passes, _fastest(turns, 5), strict=True):
                seconds[kind] += fastest
    best = min(seconds, key=lambda kind: seconds[kind])
    other = max(seconds.values()) / max(seconds[best], 1e-9)
    return best, f"{other:.1f} times as fast as the other kernel at these sizes"


def choose_capture(wanted: str, *, device: torch.device, precision: str, processes: int) -> tuple[str, str]:
    """Return (on or off, reason): whether the step is recorded as CUDA graphs. Raises UserError if it cannot be."""
    obstacle = ""
    if device.type != "cuda":
        obstacle = f"there are no CUDA graphs on {device.type}"
    elif processes > 1:
        obstacle = f"{processes} processes train together"
    elif precision == "fp16":
        obstacle = "the gradient scaler of fp16 cannot be recorded"
    if wanted == "on" and obstacle:
        raise UserError(f"train.capture = on: {obstacle}, use --train.capture auto")
    if wanted != "auto":
        return wanted, "as requested"
    return ("off", obstacle) if obstacle else ("on", "CUDA graphs, one for each shape of masks")


def matmul_speed(dtype: torch.dtype, *, repeats: int = 5) -> float:
    """Return the speed of a square matrix product on the CPU in GFLOP/s.

    The matrices grow until a product takes 10 ms: a CPU without bf16 emulates it at a hundredth of the speed, and needs
    seconds for a size of 1,024.
    """
    for size in (128, 256, 512, 1024):
        a = torch.ones(size, size, dtype=dtype)
        seconds = _fastest([partial(torch.matmul, a, a)], repeats)[0]
        if seconds > 0.01:
            break
    return 2 * size**3 / seconds / 1e9


def hardware() -> dict[str, Any]:
    """Describe the machine for run.json."""
    device = choose_device("auto")
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "device": device.type,
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else None,
        "system": platform.platform(),
    }


def threads_in_words() -> str:
    """Return the number of threads and what they do while they wait for each other (benchmarks/speed/threads.py)."""
    count = torch.get_num_threads()
    if count == 1:
        return "1"
    sleeps = os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
    waiting = "sleep" if sleeps else "spin, which is slow beside other work unless OMP_WAIT_POLICY=passive is set"
    return f"{count}; while they wait they {waiting}"


def memory_gb() -> float:
    """Return the memory this process uses now, in GiB."""
    return float(psutil.Process().memory_info().rss) / 2**30


def peak_memory_gb(device: torch.device) -> float:
    """Return the peak memory of this process so far, in GiB (on a GPU: GPU memory)."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**30
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts what the parent had used before it started us
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def keep_freed_memory() -> None:
    """Let the C library (glibc) keep freed memory for the next step; for the whole process.

    By default it returns the end of its heap to the system after each step and requests it again, page by
    page, in the next. User settings (MALLOC_*, GLIBC_TUNABLES) are respected. Parameters: mallopt(3).
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    if set_parameter := _glibc("mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        set_parameter(mmap_threshold, 32 * 2**20)  # the largest it takes
        set_parameter(trim_threshold, 2**31 - 1)


def return_freed_memory() -> None:
    """Return freed memory to the system, where the C library would keep it (glibc).

    Writing a checkpoint briefly needs a copy of everything; without this call the process stays that large.
    """
    if trim := _glibc("malloc_trim"):
        trim(0)


def _glibc(name: str) -> Callable[..., int] | None:
    """Return a function of the C library; None outside Linux and in libraries without it (musl)."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def available_memory_gb(device: torch.device) -> float:
    """Return the available memory of a device, in GiB."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0]) / 2**30
    return float(psutil.virtual_memory().available) / 2**30


def _refuse_impossible(precision: str, device: torch.device) -> None:
    if precision == "fp16" and device.type == "cpu":
        raise UserError("train.precision = fp16: only supported on GPUs, use bf16 or float32 on a CPU")
    if precision == "float64" and device.type == "mps":
        raise UserError("train.precision = float64: MPS has no float64, use float32 or --train.device cpu")


def _block_pass(kind: str, precision: str, shape: tuple[int, int, int, int]) -> Callable[[], None]:
    sequences, tokens, width, heads = shape
    with torch.random.fork_rng(devices=[]):
        block = Block(width, heads, qkv_bias=True)
    set_attention(block, kind)
    x = torch.zeros(sequences, tokens, width)
    dtype = autocast_dtype(precision)

    def once() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            block(x).sum().backward()

    return once


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fastest(rivals: Sequence[Callable[[], object]], turns: int) -> list[float]:
    """Return the fastest time of each in seconds; they are timed alternately after a warm-up."""
    for work in rivals:
        work()
    seconds: list[list[float]] = [[] for _ in rivals]
    for _ in range(turns):
        for work, taken in zip(rivals, seconds, strict=True):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return [min(taken) for taken in seconds]


def _cpu_name() -> str:
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
