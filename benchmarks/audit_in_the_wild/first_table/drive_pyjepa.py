"""pyjepa's I-JEPA, 3 epochs of 8 batches: train_ijepa(), the README's one call.

Argument ``trainer``: IJEPATrainer without iterations_per_epoch, as in the module's own documentation.
"""

import sys
from tempfile import TemporaryDirectory

import pyjepa
import torch
from pyjepa.masks import MultiBlockMaskCollator
from pyjepa.training import IJEPAConfig, IJEPATrainer, TrainConfig

EPOCHS, BATCHES, BATCH, SIDE = 3, 8, 4, 64

torch.manual_seed(0)
model = pyjepa.create_jepa("ijepa", encoder="vit_tiny", img_size=SIDE, patch_size=8, pred_depth=1, pred_embed_dim=96)
blocks = [{"spatial_scale": (0.15, 0.2), "aspect_ratio": (0.75, 1.5), "num_blocks": 4}]
collate = MultiBlockMaskCollator(blocks, crop_size=SIDE, patch_size=8)
loader = torch.utils.data.DataLoader(torch.randn(BATCHES * BATCH, 3, SIDE, SIDE), batch_size=BATCH, collate_fn=collate)
with TemporaryDirectory() as folder:
    if sys.argv[1:] == ["trainer"]:
        config = TrainConfig(output_dir=folder, device="cpu", epochs=EPOCHS, amp_dtype="fp32")
        IJEPATrainer(model, config, IJEPAConfig(warmup_epochs=0)).fit(loader)
    else:
        pyjepa.train_ijepa(model, loader, epochs=EPOCHS, output_dir=folder, device="cpu", amp_dtype="fp32")
