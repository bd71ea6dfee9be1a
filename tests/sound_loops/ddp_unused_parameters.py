"""DDP with a branch that is used in every second step, in one process."""

import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import WIDTH, average, loss_of, network, teacher_of

torch.manual_seed(0)


class Student(nn.Module):
    """A network with a branch that is not always used."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.extra = network(), nn.Linear(WIDTH, WIDTH)
        self.used = True

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        found = self.body(batch)
        return found + self.extra(found) if self.used else found


with tempfile.NamedTemporaryFile() as store:
    dist.init_process_group("gloo", init_method=f"file://{store.name}", rank=0, world_size=1)
    student = Student()
    teacher = teacher_of(student)
    wrapped = DistributedDataParallel(student, find_unused_parameters=True)
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-3)
    for step in range(30):
        student.used = step % 2 == 0
        loss = loss_of(wrapped, teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average(teacher.parameters(), wrapped.module.parameters())
    dist.destroy_process_group()
