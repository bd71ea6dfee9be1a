"""Fault: DINO's teacher keeps requires_grad=True and its outputs are only detached in the loss."""

import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_views import augment, random_images

STEPS = 30
GLOBAL, LOCAL = 2, 4


class Network(nn.Module):
    """Small convolutional backbone with a DINO head; takes a list of crops of two sizes."""

    def __init__(self, prototypes: int = 64) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 32, 4, stride=4),
            nn.GELU(),
            nn.Conv2d(32, 32, 1),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 24))
        self.last_layer = nn.Linear(24, prototypes, bias=False)

    def forward(self, crops: list[Tensor]) -> Tensor:
        sizes = sorted({crop.shape[-1] for crop in crops}, reverse=True)
        features = [self.backbone(torch.cat([c for c in crops if c.shape[-1] == size])) for size in sizes]
        return self.last_layer(F.normalize(self.mlp(torch.cat(features)), dim=-1))


class DINOLoss(nn.Module):
    """Cross-entropy between centred, sharpened teacher outputs and student outputs of all other crops."""

    def __init__(self, prototypes: int = 64) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(1, prototypes))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        students = (student / 0.1).chunk(GLOBAL + LOCAL)
        teachers = ((teacher - self.center) / 0.04).softmax(-1).detach().chunk(GLOBAL)
        losses = [
            -(t * s.log_softmax(-1)).sum(-1).mean()
            for i, t in enumerate(teachers)
            for j, s in enumerate(students)
            if i != j
        ]
        self.update_center(teacher)
        return torch.stack(losses).mean()

    @torch.no_grad()
    def update_center(self, teacher: Tensor) -> None:
        self.center = 0.9 * self.center + 0.1 * teacher.mean(0, keepdim=True)


torch.manual_seed(0)
student, teacher, dino_loss = Network(), Network(), DINOLoss()
teacher.load_state_dict(student.state_dict())  # FAULT
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.04)
momentum_schedule = [1 - 0.004 * (1 + math.cos(math.pi * i / STEPS)) / 2 for i in range(STEPS)]

for it in range(STEPS):
    images = random_images(size=32)
    crops = [augment(images) for _ in range(GLOBAL)]
    crops += [augment(images)[:, :, 8:24, 8:24] for _ in range(LOCAL)]
    teacher_output = teacher(crops[:GLOBAL])
    student_output = student(crops)
    loss = dino_loss(student_output, teacher_output)

    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 3.0)
    if it < 5:  # the last layer stays fixed in the first epoch
        student.last_layer.weight.grad = None
    optimizer.step()

    with torch.no_grad():
        m = momentum_schedule[it]
        for param_q, param_k in zip(student.parameters(), teacher.parameters(), strict=True):
            param_k.data.mul_(m).add_((1 - m) * param_q.detach().data)
