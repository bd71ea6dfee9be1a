"""Fault: forward updates the teacher before it is used, in validation as well because nobody asks for self.training."""

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

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.predictor = Predictor()
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)

    @torch.no_grad()
    def update_teacher(self) -> None:
        momentum = 0.996
        for t, s in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            t.copy_(momentum * t + (1 - momentum) * s)

    def forward(self, images: Tensor, context_index: Tensor, target_index: Tensor) -> Tensor:
        self.update_teacher()  # FAULT
        with torch.no_grad():
            target = gather(F.layer_norm(self.teacher(images), (WIDTH,)), target_index)
        predicted = self.predictor(self.encoder(images, context_index), context_index, target_index)
        return F.smooth_l1_loss(predicted, target)


def main() -> None:
    torch.manual_seed(0)
    model = IJEPA()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for step in range(30):
        model.train()
        loss = model(random_images(), *random_masks())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 5 == 0:
            model.eval()
            with torch.no_grad():
                for _ in range(2):
                    model(random_images(), *random_masks())


if __name__ == "__main__":
    main()
