"""DINOv2-like: image and patch heads, masked student patches, one foreach update of all tensors, cosine momentum."""

import copy
import math
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import GRID, WIDTH, Block, random_images

STEPS = 30


class ViT(nn.Module):
    """A transformer with class and mask token; masked patches are replaced, none is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, WIDTH, 4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.mask_token = nn.Parameter(torch.zeros(1, WIDTH))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, GRID * GRID, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        x = self.patch_embed(images).flatten(2).transpose(1, 2)
        if masks is not None:
            x = torch.where(masks.unsqueeze(-1), self.mask_token, x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x + self.pos_embed], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def dino_head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, 48), nn.GELU(), nn.Linear(48, 64))


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float = 0.07) -> Tensor:
    q = (logits / temperature).exp().T
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / len(q)
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    return -(teacher * (student / 0.1).log_softmax(-1)).sum(-1).mean()


class SSLMetaArch(nn.Module):
    """Student and teacher, each with a backbone and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.ModuleDict({"backbone": ViT(), "dino_head": dino_head(), "ibot_head": dino_head()})
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        with torch.no_grad():
            tokens = self.teacher["backbone"](images)
            image_target = sinkhorn(self.teacher["dino_head"](tokens[:, 0]))
            patch_target = sinkhorn(self.teacher["ibot_head"](tokens[:, 1:][masks]))
        tokens = self.student["backbone"](images, masks)
        image_loss = cross_entropy(self.student["dino_head"](tokens[:, 0]), image_target)
        return image_loss + cross_entropy(self.student["ibot_head"](tokens[:, 1:][masks]), patch_target)

    @torch.no_grad()
    def update_teacher(self, m: float) -> None:
        student_params, teacher_params = [], []
        for name in self.student:
            student_params += list(self.student[name].parameters())
            teacher_params += list(self.teacher[name].parameters())
        torch._foreach_mul_(teacher_params, m)
        torch._foreach_add_(teacher_params, student_params, alpha=1 - m)

    def train(self, mode: bool = True) -> "SSLMetaArch":
        super().train(mode)
        self.teacher.eval()
        return self


torch.manual_seed(0)
model = SSLMetaArch().train()
optimizer = torch.optim.AdamW(model.student.parameters(), lr=1e-3, betas=(0.9, 0.999))
schedule = [1.0 - 0.008 * (1 + math.cos(math.pi * i / STEPS)) / 2 for i in range(STEPS)]
for iteration in range(STEPS):
    optimizer.zero_grad(set_to_none=True)
    loss = model(random_images(), torch.rand(16, GRID * GRID) < 0.3)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.student["backbone"].parameters(), 3.0)
    optimizer.step()
    model.update_teacher(schedule[iteration])
