"""Validation on the averaged weights, in five ways that leave the student as it was."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

WAY = sys.argv[1]
torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
spare = network()
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)


@torch.no_grad()
def validate() -> None:
    batch = torch.randn(16, 16)
    if WAY in ("copy", "update_first"):
        kept = {name: p.clone() for name, p in student.state_dict().items()}
        student.load_state_dict(teacher.state_dict())
        student.eval()
        student(batch)
        student.train()
        student.load_state_dict(kept)
    elif WAY == "exchange":
        for _ in range(2):
            for s, t in zip(student.parameters(), teacher.parameters(), strict=True):
                s.data, t.data = t.data, s.data
            student(batch)
    elif WAY == "functional":
        torch.func.functional_call(student, dict(teacher.named_parameters()), (batch,))
    else:
        spare.load_state_dict(teacher.state_dict())
        spare(batch)


for step in range(30):
    if WAY == "update_first" and step:
        average(teacher.parameters(), student.parameters())
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if WAY != "update_first":
        average(teacher.parameters(), student.parameters())
    if step % 4 == 3:
        validate()
