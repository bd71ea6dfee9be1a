"""Fault: the coefficients of a blend of state dictionaries are exchanged."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import loss_of, network, teacher_of

torch.manual_seed(0)
student = network()
teacher = teacher_of(student)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    trained = student.state_dict()
    blend = {name: 0.004 * value + 0.996 * trained[name] for name, value in teacher.state_dict().items()}  # FAULT
    teacher.load_state_dict(blend)
