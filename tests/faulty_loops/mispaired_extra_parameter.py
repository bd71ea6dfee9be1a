"""Fault: the student registers one more parameter first, and the pairing by position shifts all tensors by one."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import GRID, PATCH, Predictor, gather, random_images, random_masks

TOTAL = 30
WIDTH = 3 * PATCH * PATCH


class Mixer(nn.Module):
    """Layers of the same shape: every weight is a square matrix."""

    def __init__(self, student: bool) -> None:
        super().__init__()
        if student:
            self.input_map = nn.Parameter(torch.eye(WIDTH))  # only the student learns one
        self.embed = nn.Parameter(torch.randn(WIDTH, WIDTH) / WIDTH**0.5)
        self.local = nn.Parameter(torch.randn(WIDTH, WIDTH) / WIDTH**0.5)
        self.mixed = nn.Parameter(torch.randn(WIDTH, WIDTH) / WIDTH**0.5)
        self.out = nn.Parameter(torch.randn(WIDTH, WIDTH) / WIDTH**0.5)
        self.register_buffer("positions", torch.randn(1, GRID * GRID, WIDTH))

    def forward(self, images: Tensor, index: Tensor | None = None) -> Tensor:
        patches = F.unfold(images, PATCH, stride=PATCH).transpose(1, 2)
        if hasattr(self, "input_map"):
            patches = patches @ self.input_map
        x = patches @ self.embed + self.positions
        if index is not None:
            x = gather(x, index)
        x = x + F.gelu(x @ self.local)
        x = x + F.gelu(x.mean(1, keepdim=True) @ self.mixed)
        return x @ self.out


torch.manual_seed(0)
student, predictor = Mixer(student=True), Predictor(WIDTH)
teacher = Mixer(student=False).requires_grad_(False)
teacher.load_state_dict(copy.deepcopy(student.state_dict()), strict=False)
optimizer = torch.optim.AdamW([*student.parameters(), *predictor.parameters()], lr=1e-3)

for step in range(TOTAL):
    images = random_images()
    context_index, target_index = random_masks()
    with torch.no_grad():
        target = gather(F.layer_norm(teacher(images), (WIDTH,)), target_index)
    predicted = predictor(student(images, context_index), context_index, target_index)
    loss = F.smooth_l1_loss(predicted, target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

    momentum = 0.996 + 0.004 * step / TOTAL
    with torch.no_grad():
        for s, t in zip(student.parameters(), teacher.parameters(), strict=False):  # FAULT
            t.mul_(momentum).add_(s, alpha=1 - momentum)
