"""Lightning's EMAWeightAveraging on a classifier with a validation after every 8 batches."""

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = resnet18(num_classes=4)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.network(images), labels)

    def validation_step(self, batch, batch_idx):
        self.log("accuracy", (self.network(batch[0]).argmax(-1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


lightning.seed_everything(0, verbose=False)
data = TensorDataset(torch.randn(64, 3, 32, 32), torch.randint(4, (64,)))
trainer = lightning.Trainer(
    accelerator="cpu",
    max_epochs=3,
    callbacks=[EMAWeightAveraging(decay=0.999)],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Classifier(), DataLoader(data, 8, shuffle=True), DataLoader(data, 32))
