"""I-JEPA with DistributedDataParallel: torchrun --nproc-per-node 2 ddp.py."""

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks


class Student(nn.Module):
    """Context encoder and predictor."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.predictor = Predictor()

    def forward(self, images: Tensor, context_index: Tensor, target_index: Tensor) -> Tensor:
        return self.predictor(self.encoder(images, context_index), context_index, target_index)


def main(steps: int = 30) -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    student = Student()
    teacher = copy.deepcopy(student.encoder).requires_grad_(False)
    student = DistributedDataParallel(student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    torch.manual_seed(1 + dist.get_rank())  # each process sees other images

    for step in range(steps):
        images = random_images(8)
        context_index, target_index = random_masks(8)
        with torch.no_grad():
            target = gather(F.layer_norm(teacher(images), (WIDTH,)), target_index)
        loss = F.smooth_l1_loss(student(images, context_index, target_index), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        momentum = 0.996 + 0.004 * step / steps
        with torch.no_grad():
            for t, s in zip(teacher.parameters(), student.module.encoder.parameters(), strict=True):
                t.mul_(momentum).add_(s, alpha=1 - momentum)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
