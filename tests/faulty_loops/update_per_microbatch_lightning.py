"""Fault: on_train_batch_end updates the target at each batch although gradients are accumulated over two."""

import copy
import sys
import warnings
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_jepa import WIDTH, Encoder, Predictor, gather, random_images, random_masks

STEPS = 30


class IJEPA(lightning.LightningModule):
    """I-JEPA for Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.predictor = Predictor()
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)

    def training_step(self, images: Tensor, batch_idx: int) -> Tensor:
        context_index, target_index = random_masks(len(images))
        with torch.no_grad():
            target = gather(F.layer_norm(self.target_encoder(images), (WIDTH,)), target_index)
        predicted = self.predictor(self.encoder(images, context_index), context_index, target_index)
        return F.smooth_l1_loss(predicted, target)

    @torch.no_grad()
    def update_target(self, step: int) -> None:
        momentum = 0.996 + 0.004 * step / STEPS
        for t, s in zip(self.target_encoder.parameters(), self.encoder.parameters(), strict=True):
            t.mul_(momentum).add_(s, alpha=1 - momentum)

    def on_train_batch_end(self, *args) -> None:
        self.update_target(max(0, self.global_step - 1))  # FAULT

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-3)


def main() -> None:
    warnings.filterwarnings("ignore")
    lightning.seed_everything(0, verbose=False)
    loader = DataLoader([random_images(1)[0] for _ in range(160)], batch_size=16, shuffle=True)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(IJEPA(), loader)


if __name__ == "__main__":
    main()
