"""Fault: the model updates its teacher at the end of forward, after the teacher was used and before the step."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks


class IJEPA(nn.Module):
    """Context encoder, predictor and target encoder; returns the loss."""

    def __init__(self, total_steps: int) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.predictor = Predictor()
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)
        self.total_steps = total_steps
        self.updates = 0

    @torch.no_grad()
    def update_teacher(self) -> None:
        momentum = min(1.0, 0.996 + 0.004 * self.updates / self.total_steps)
        for t, s in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            t.copy_(momentum * t + (1 - momentum) * s)
        self.updates += 1

    def forward(self, images: Tensor, context_index: Tensor, target_index: Tensor) -> Tensor:
        with torch.no_grad():
            target = gather(F.layer_norm(self.teacher(images), (WIDTH,)), target_index)
        predicted = self.predictor(self.encoder(images, context_index), context_index, target_index)
        loss = F.smooth_l1_loss(predicted, target)
        if self.training:
            self.update_teacher()  # FAULT
        return loss


def main() -> None:
    torch.manual_seed(0)
    total = 30
    model = IJEPA(total)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(total):
        model.train()
        loss = model(random_images(), *random_masks())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
