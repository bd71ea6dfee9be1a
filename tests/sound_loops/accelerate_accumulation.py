"""I-JEPA under Accelerate with accumulation; the teacher is updated only when gradients are synchronised."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks


def main(total_steps: int = 30, accumulation: int = 2) -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    student = nn.ModuleDict({"encoder": Encoder(), "predictor": Predictor()})
    teacher = copy.deepcopy(student["encoder"]).requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    student, optimizer = accelerator.prepare(student, optimizer)

    step = 0
    while step < total_steps:
        with accelerator.accumulate(student):
            images = random_images(8)
            context_index, target_index = random_masks(8)
            with torch.no_grad():
                target = gather(F.layer_norm(teacher(images), (WIDTH,)), target_index)
            context = student["encoder"](images, context_index)
            loss = F.smooth_l1_loss(student["predictor"](context, context_index, target_index), target)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

        if accelerator.sync_gradients:
            momentum = 0.996 + 0.004 * step / total_steps
            with torch.no_grad():
                for t, s in zip(teacher.parameters(), student["encoder"].parameters(), strict=True):
                    t.mul_(momentum).add_(s, alpha=1 - momentum)
            step += 1


if __name__ == "__main__":
    main()
