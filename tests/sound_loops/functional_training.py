"""The student's training forward is functional_call with its own parameters; validation uses the teacher's."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.func import functional_call

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, network, targets, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
weights = dict(student.named_parameters())
optimizer = torch.optim.AdamW(weights.values(), lr=1e-3)
for step in range(30):
    batch = torch.randn(16, 16)
    loss = F.mse_loss(functional_call(student, weights, (batch,)), targets(teacher, batch))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), weights.values())
    if step % 5 == 4:
        with torch.no_grad():
            functional_call(student, dict(teacher.named_parameters()), (batch,))
