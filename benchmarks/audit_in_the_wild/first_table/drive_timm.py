"""timm's ModelEmaV3 at its defaults, used as a teacher: updated after every optimizer step.

Argument ``counted`` passes the step number, as timm's own training script does.
"""

import sys

import timm
import torch
from timm.utils import ModelEmaV3
from torch.nn.functional import cross_entropy, mse_loss

COUNTED = sys.argv[1:] == ["counted"]

torch.manual_seed(0)
model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=10)
ema = ModelEmaV3(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(1, 25):
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    outputs = model(images + 0.1 * torch.randn_like(images))
    with torch.no_grad():
        targets = ema(images)
    loss = cross_entropy(outputs, labels) + mse_loss(outputs, targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    ema.update(model, step=step if COUNTED else None)
