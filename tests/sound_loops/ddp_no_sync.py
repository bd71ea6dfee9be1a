"""DDP with accumulation under no_sync, in one process."""

import contextlib
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)
with tempfile.NamedTemporaryFile() as store:
    dist.init_process_group("gloo", init_method=f"file://{store.name}", rank=0, world_size=1)
    student = DistributedDataParallel(network())
    teacher = teacher_of(student.module)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        for micro in range(3):
            with contextlib.nullcontext() if micro == 2 else student.no_sync():
                (loss_of(student, teacher) / 3).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        average(teacher.parameters(), student.module.parameters())
    dist.destroy_process_group()
