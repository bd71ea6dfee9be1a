"""After every optimizer step the averaged weights are lent to the student for a forward, before the update."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    kept = [p.detach().clone() for p in student.parameters()]
    with torch.no_grad():
        torch._foreach_copy_(list(student.parameters()), list(teacher.parameters()))
        student(torch.randn(16, 16))
        torch._foreach_copy_(list(student.parameters()), kept)
    average(teacher.parameters(), student.parameters())
