"""Both networks run under torch.vmap, sample by sample."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)


def one(x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        wanted = teacher(x)
    return student(x), wanted


for _ in range(30):
    predicted, wanted = torch.vmap(one)(torch.randn(16, 16))
    loss = F.mse_loss(predicted, wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
