"""simulusion's I-JEPA agent, create_model("jepa").train(), on a folder of random images: 3 epochs of 8 batches."""

from pathlib import Path
from tempfile import TemporaryDirectory

import simulusion
import torch
from torchvision.utils import save_image

EPOCHS, BATCHES, BATCH, SIDE = 3, 8, 4, 64

torch.manual_seed(0)
with TemporaryDirectory() as folder:
    images = Path(folder) / "images" / "noise"
    images.mkdir(parents=True)
    for index in range(BATCHES * BATCH):
        save_image(torch.rand(3, SIDE, SIDE), images / f"{index}.png")
    agent = simulusion.create_model(
        "jepa", dataset="imagefolder", root_path=folder, image_folder="images", model_name="vit_tiny",
        crop_size=SIDE, patch_size=8, pred_depth=1, pred_emb_dim=96, min_keep=2, batch_size=BATCH, num_workers=0,
        pin_mem=False, epochs=EPOCHS, warmup=0, lr_reference_batch_size=None, folder=str(Path(folder) / "run"),
    )  # fmt: skip
    agent.train()
