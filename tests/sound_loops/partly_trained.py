"""Most of the student is frozen: adapters, or the last block, are trained and averaged."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, loss_of, teacher_of

WAY = sys.argv[1]


class Adapted(nn.Module):
    """A frozen layer with a trained low-rank addition."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down = nn.Parameter(0.1 * torch.randn(4, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T


torch.manual_seed(0)
if WAY == "adapters":
    layers: list[nn.Module] = [nn.Linear(16, 32), *(Adapted(32, 32) for _ in range(3)), nn.LayerNorm(32)]
else:
    layers = [nn.Linear(16, 32), *(nn.Linear(32, 32) for _ in range(3)), nn.Linear(32, 32)]
student = nn.Sequential(*layers)
for layer in (student[0], student[4]) if WAY == "adapters" else student[:4]:
    layer.requires_grad_(False)
teacher = teacher_of(student)
optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-3)
for _ in range(30):
    loss = loss_of(student, teacher)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
