"""A classifier on the student's detached features is trained by the same optimizer, and one on the teacher's."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import WIDTH, average, network, targets, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
probe, teacher_probe = torch.nn.Linear(WIDTH, 4), torch.nn.Linear(WIDTH, 4)
optimizer = torch.optim.AdamW(
    [{"params": student.parameters()}, {"params": [*probe.parameters(), *teacher_probe.parameters()], "lr": 0.1}],
    lr=1e-3,
)
for _ in range(30):
    batch, labels = torch.randn(16, 16), torch.randint(0, 4, (16,))
    wanted = targets(teacher, batch)
    found = student(batch + 0.2 * torch.randn_like(batch))
    loss = F.mse_loss(found, wanted)
    loss = loss + F.cross_entropy(probe(found.detach()), labels) + F.cross_entropy(teacher_probe(wanted), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
