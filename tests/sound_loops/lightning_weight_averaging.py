"""Lightning's own average, which is exchanged with the model's weights for each validation."""

import logging
import sys
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import network

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Model(lightning.LightningModule):
    """A network that is trained to see through noise."""

    def __init__(self) -> None:
        super().__init__()
        self.student = network()

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        return F.mse_loss(self.student(batch[0] + 0.2 * torch.randn_like(batch[0])), batch[0].repeat(1, 2))

    def validation_step(self, batch: list[Tensor], number: int) -> None:
        self.student(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.student.parameters(), lr=1e-3)


torch.manual_seed(0)
kept = EMAWeightAveraging(decay=0.99) if sys.argv[1] == "ema" else WeightAveraging()
loader = DataLoader(TensorDataset(torch.randn(64, 16)), 8)
lightning.Trainer(
    max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, callbacks=[kept],
).fit(Model(), loader, loader)  # fmt: skip
