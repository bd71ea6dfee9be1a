"""Fault: the update goes over state_dict(), where the head that serves images and patches stands twice."""

import copy
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, gather, random_images, random_masks


class Network(nn.Module):
    """A backbone with a head for the whole image and one for patches, which are the same module."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Encoder()
        self.image_head = nn.Sequential(nn.Linear(WIDTH, 48), nn.GELU(), nn.Linear(48, 24))
        self.patch_head = self.image_head

    def forward(self, images: Tensor, context_index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        tokens = self.backbone(images, context_index)
        return self.image_head(tokens.mean(1)), self.patch_head(tokens)


def cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    return -(teacher.div(0.07).softmax(-1) * student.div(0.1).log_softmax(-1)).sum(-1).mean()


def main(steps: int = 30) -> None:
    torch.manual_seed(0)
    student = Network()
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    for _ in range(steps):
        images = random_images()
        context_index, _ = random_masks()
        with torch.no_grad():
            teacher_image, teacher_patches = teacher(images)
            teacher_patches = gather(teacher_patches, context_index)
        student_image, student_patches = student(images, context_index)
        loss = cross_entropy(student_image, teacher_image) + cross_entropy(student_patches, teacher_patches)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            online = student.state_dict()
            for name, value in teacher.state_dict().items():  # FAULT
                value.mul_(0.99).add_(online[name], alpha=0.01)


if __name__ == "__main__":
    main()
