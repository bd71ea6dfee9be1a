"""``hjepa doctor``: report what this machine offers."""

import platform
from importlib.metadata import version
from typing import Any

import torch

from hjepa.data.sources import cifar10_is_here, fashion_mnist_is_here
from hjepa.setup.machine import available_memory_gb, choose_device, choose_precision, hardware, matmul_speed
from hjepa.version import __version__


def doctor() -> dict[str, Any]:
    """Return devices, precision, threads, memory, package versions and datasets of this machine."""
    device = choose_device("auto")
    precision, reason = choose_precision("auto", device)
    speeds = {str(kind).removeprefix("torch."): round(matmul_speed(kind)) for kind in (torch.float32, torch.bfloat16)}
    fashion = (
        "found"
        if fashion_mnist_is_here()
        else "not found; apt-get install dataset-fashion-mnist, or go online to download it"
    )
    cifar10 = "found" if cifar10_is_here() else "not found; put cifar10.npz into ./data, or go online to download it"
    return {
        "hjepa": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "timm", "accelerate")},
        **hardware(),
        "memory free (GB)": round(available_memory_gb(device), 1),
        "matrix products (GFLOP/s)": ", ".join(f"{name} {speed}" for name, speed in speeds.items()),
        "precision": f"{precision}: {reason}",
        "data set scenes": "built in",
        "data set fashion-mnist": fashion,
        "data set cifar10": cifar10,
    }
