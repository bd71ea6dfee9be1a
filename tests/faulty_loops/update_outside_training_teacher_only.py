"""Fault: the teacher alone is validated, as usual, and validate updates it after each batch."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

TOTAL = 30

torch.manual_seed(0)
student = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 32))
predictor = nn.Linear(32, 32)
teacher = copy.deepcopy(student).requires_grad_(False)
optimizer = torch.optim.AdamW([*student.parameters(), *predictor.parameters()], lr=1e-3)


@torch.no_grad()
def update_teacher() -> None:
    for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
        t.mul_(0.99).add_(s, alpha=0.01)


@torch.no_grad()
def validate(batches: int = 4) -> None:
    teacher.eval()
    for _ in range(batches):
        teacher(torch.randn(64, 16))
        update_teacher()  # FAULT
    teacher.train()


for step in range(TOTAL):
    x = torch.randn(64, 16)
    with torch.no_grad():
        target = teacher(x)
    loss = F.mse_loss(predictor(student(x + 0.1 * torch.randn_like(x))), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    update_teacher()
    if step % 5 == 4:
        validate()
