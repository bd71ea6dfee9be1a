"""Fault: the momentum stays at 0.996 where I-JEPA prescribes a straight line to 1."""

import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import Encoder, Predictor, gather, random_images, random_masks


class Trainer:
    """Holds the models and does the training."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps
        self.global_step = 0
        self.context_encoder = Encoder()
        self.predictor = Predictor()
        self.target_encoder = copy.deepcopy(self.context_encoder).requires_grad_(False).eval()
        trained = list(self.context_encoder.parameters()) + list(self.predictor.parameters())
        self.optimizer = torch.optim.AdamW(trained, lr=1e-3)

    def momentum(self) -> float:
        """Return the momentum."""
        return 0.996  # FAULT

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target encoder towards the context encoder."""
        m = self.momentum()
        for target, source in zip(self.target_encoder.parameters(), self.context_encoder.parameters(), strict=True):
            target.lerp_(source, 1.0 - m)

    @torch.no_grad()
    def make_targets(self, images: Tensor, index: Tensor) -> Tensor:
        """Return the layer-normalised target tokens."""
        tokens = self.target_encoder(images)
        return gather(F.layer_norm(tokens, tokens.shape[-1:]), index)

    def compute_loss(self, images: Tensor) -> Tensor:
        """Return the loss of a batch."""
        context_index, target_index = random_masks(len(images))
        targets = self.make_targets(images, target_index)
        context = self.context_encoder(images, context_index)
        predicted = self.predictor(context, context_index, target_index)
        return F.smooth_l1_loss(predicted, targets)

    def train_step(self, images: Tensor) -> float:
        """Do one optimizer step."""
        self.optimizer.zero_grad()
        loss = self.compute_loss(images)
        loss.backward()
        self.optimizer.step()
        self.update_target()
        self.global_step += 1
        return loss.item()

    def fit(self) -> list[float]:
        """Train and return the losses."""
        return [self.train_step(random_images()) for _ in range(self.total_steps)]


if __name__ == "__main__":
    torch.manual_seed(0)
    Trainer(total_steps=30).fit()
