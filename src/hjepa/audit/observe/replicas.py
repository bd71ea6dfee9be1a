"""Whether all processes hold the same teacher, without a collective call.

Every audited process leaves a digest of its teacher's samples in the store through which the processes
found each other; the first reads them. A collective would hang if one process did not take part.
"""

import datetime
import hashlib
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = 2.0  # seconds that the first process waits for the others' digests


def world() -> tuple[int, int]:
    """Return (this process, number of processes)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def publish(sample: Tensor, step: int) -> None:
    """Leave the digest of this process's teacher after ``step`` in the store."""
    store = _store()
    if store is None:
        return
    # Rounded: the same arithmetic on the same machine is equal to the last bit, on others nearly.
    size = sample.abs().clamp(min=1e-12)
    digits = torch.round(sample / 10 ** (size.log10().floor() - 4)).long()
    digest = hashlib.sha256(digits.numpy().tobytes()).hexdigest()[:16]
    store.set(_key(step, world()[0]), digest)


def compare(step: int | None) -> dict[int, str] | None:
    """Return the digests of all processes for the last published step, on the first process; else None."""
    rank, size = world()
    store = _store()
    if store is None or size < 2 or rank or step is None:
        return None
    keys = [_key(step, other) for other in range(size)]
    try:
        store.wait(keys, datetime.timedelta(seconds=PATIENCE))
        return {other: bytes(store.get(key)).decode() for other, key in enumerate(keys)}
    except Exception:  # noqa: BLE001  another process is not audited, or has left
        return None


def _key(step: int, rank: int) -> str:
    return f"hjepa-audit/{step}/{rank}"


def _store() -> Any:
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() < 2:
        return None
    try:
        return dist.distributed_c10d._get_default_store()
    except (AttributeError, RuntimeError):
        return None
