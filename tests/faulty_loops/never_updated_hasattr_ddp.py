"""Fault: under DDP the wrapper has no attribute target_encoder, and the guarded update returns in silence."""

import copy
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks


class Model(nn.Module):
    """Context encoder, predictor and target encoder; returns predictions and targets."""

    def __init__(self) -> None:
        super().__init__()
        self.context_encoder = Encoder()
        self.predictor = Predictor()
        self.target_encoder = copy.deepcopy(self.context_encoder).requires_grad_(False)

    def forward(self, images: Tensor, context_index: Tensor, target_index: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            target = gather(F.layer_norm(self.target_encoder(images), (WIDTH,)), target_index)
        context = self.context_encoder(images, context_index)
        return self.predictor(context, context_index, target_index), target


class Trainer:
    """Trains a model, wrapped or not."""

    def __init__(self, model: nn.Module, total_steps: int) -> None:
        self.model = model
        self.total_steps = total_steps
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    @torch.no_grad()
    def update_target_encoder(self, momentum: float) -> None:
        if not hasattr(self.model, "target_encoder"):  # FAULT
            return
        source, target = self.model.context_encoder, self.model.target_encoder
        for s, t in zip(source.parameters(), target.parameters(), strict=True):
            t.mul_(momentum).add_(s, alpha=1 - momentum)

    def fit(self) -> None:
        for step in range(self.total_steps):
            predicted, target = self.model(random_images(), *random_masks())
            loss = F.smooth_l1_loss(predicted, target)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.update_target_encoder(0.996 + 0.004 * step / self.total_steps)


if __name__ == "__main__":
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        Trainer(DistributedDataParallel(Model()), total_steps=30).fit()
        dist.destroy_process_group()
