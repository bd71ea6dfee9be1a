"""Fault: a trained table of tokens and trained positions feed student and teacher; the teacher has none of its own."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import average, network, targets, teacher_of

torch.manual_seed(0)


class Embedded(nn.Module):
    """A table of words and their positions."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(50, 16), nn.Parameter(0.1 * torch.randn(10, 16))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.words(words) + self.positions


embedded = Embedded()
student = network()
teacher = teacher_of(student)
predictor = nn.Linear(32, 32)
modules = nn.ModuleList([embedded, student, predictor])
optimizer = torch.optim.AdamW(modules.parameters(), lr=1e-3)
for _ in range(30):
    words = torch.randint(0, 50, (8, 10))
    hidden = torch.where(torch.rand(8, 10) < 0.3, torch.zeros_like(words), words)
    wanted = targets(teacher, embedded(words))  # FAULT
    loss = F.smooth_l1_loss(predictor(student(embedded(hidden))), wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average(teacher.parameters(), student.parameters())
