"""stable-pretraining's I-JEPA with its TeacherStudentCallback, as in the module's documentation: 3 epochs of 8 batches.

Argument ``after-backward`` sets update_after_backward=True; ``resnet`` wraps a network with batch normalisation.
"""

import sys
from tempfile import TemporaryDirectory

import lightning
import stable_pretraining as spt
import timm
import torch
import torchvision
from stable_pretraining.backbone import TeacherStudentWrapper
from stable_pretraining.callbacks import TeacherStudentCallback
from stable_pretraining.methods import IJEPA

EPOCHS, BATCHES, BATCH, SIDE = 3, 8, 4, 64
CHOICE = sys.argv[1] if len(sys.argv) > 1 else "default"


class Trained(lightning.LightningModule):
    """The LightningModule of the documentation of stable_pretraining.methods.IJEPA."""

    def __init__(self) -> None:
        super().__init__()
        self.model = IJEPA(
            timm.create_model("vit_tiny_patch16_224", img_size=SIDE, patch_size=8, depth=2),
            predictor_embed_dim=64,
            predictor_depth=1,
        )

    def training_step(self, batch, index):
        return self.model(batch[0]).loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1.5e-4)


def forward(self, batch, stage):
    """Return the loss of a mean teacher: the wrapped network's two outputs for noisy views of a batch."""
    images = batch["image"]
    student = self.backbone.forward_student(images + 0.1 * torch.randn_like(images))
    teacher = self.backbone.forward_teacher(images)
    supervised = torch.nn.functional.cross_entropy(student, batch["label"])
    return {"loss": supervised + torch.nn.functional.mse_loss(student, teacher)}


torch.manual_seed(0)
if CHOICE == "resnet":
    backbone = TeacherStudentWrapper(torchvision.models.resnet18(num_classes=10))
    module = spt.Module(forward=forward, backbone=backbone, optim={"optimizer": {"type": "SGD", "lr": 0.01}})
    data = [{"image": torch.randn(3, 32, 32), "label": index % 10} for index in range(BATCHES * BATCH)]
else:
    module = Trained()
    data = torch.utils.data.TensorDataset(torch.randn(BATCHES * BATCH, 3, SIDE, SIDE))
with TemporaryDirectory() as folder:
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        callbacks=[TeacherStudentCallback(update_after_backward=CHOICE == "after-backward")],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=BATCH))
