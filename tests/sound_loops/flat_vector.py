"""The teacher's weights are averaged as one flat vector and written back as its pieces."""

import sys
from pathlib import Path

import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

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
    with torch.no_grad():
        new = 0.99 * parameters_to_vector(teacher.parameters()) + 0.01 * parameters_to_vector(student.parameters())
        vector_to_parameters(new, teacher.parameters())
