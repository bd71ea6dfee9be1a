"""lightly-train's pretrain() with method="dino" on random images.  Argument: gradient_accumulation_steps."""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torchvision.utils import save_image

os.environ["LIGHTLY_TRAIN_EVENTS_DISABLED"] = "1"  # no usage events from a benchmark

import lightly_train

ACCUMULATED = int(sys.argv[1]) if len(sys.argv) > 1 else 1
EPOCHS, STEPS, BATCH = 3, 8, 2

if __name__ == "__main__":
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        for index in range(STEPS * BATCH * ACCUMULATED):
            save_image(torch.rand(3, 64, 64), images / f"{index}.png")
        lightly_train.pretrain(
            out=str(Path(folder) / "out"),
            data=str(images),
            model="torchvision/resnet18",
            method="dino",
            method_args={"hidden_dim": 64, "bottleneck_dim": 32, "output_dim": 64},
            transform_args={"image_size": (32, 32), "local_view": None},
            epochs=EPOCHS,
            batch_size=BATCH,
            gradient_accumulation_steps=ACCUMULATED,
            num_workers=0,
            devices=1,
            accelerator="cpu",
        )
