"""I-JEPA from lightly's building blocks, in the loop of its examples/pytorch/ijepa.py: 3 epochs of 8 batches."""

import copy

import torch
from lightly.data import IJEPAMaskCollator
from lightly.models.modules.ijepa import IJEPABackbone, IJEPAPredictor
from lightly.models.utils import apply_masks, repeat_interleave_batch
from torch.nn.functional import layer_norm
from torchvision.models import VisionTransformer

EPOCHS, BATCHES, BATCH, SIDE, PATCH = 3, 8, 10, 224, 32
WIDTH = 768  # the predictor is built for this width


def vision_transformer() -> VisionTransformer:
    return VisionTransformer(SIDE, PATCH, num_layers=2, num_heads=12, hidden_dim=WIDTH, mlp_dim=WIDTH)


class IJEPA(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = IJEPABackbone.from_vit(vision_transformer())
        self.predictor = IJEPAPredictor.from_vit_encoder(vision_transformer().encoder, (SIDE // PATCH) ** 2)
        self.target_encoder = copy.deepcopy(self.encoder)

    def forward(self, images, context, targets):
        predicted = self.predictor(self.encoder(images, context), context, targets)
        with torch.no_grad():
            seen = self.target_encoder(images)
            seen = apply_masks(layer_norm(seen, (seen.shape[-1],)), targets)
            return predicted, repeat_interleave_batch(seen, len(images), repeat=len(context))

    def update_target_encoder(self, momentum: float) -> None:
        with torch.no_grad():
            for mine, target in zip(self.encoder.parameters(), self.target_encoder.parameters(), strict=True):
                target.data.mul_(momentum).add_((1 - momentum) * mine.detach().data)


torch.manual_seed(0)
model = IJEPA()
optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-4)
collate = IJEPAMaskCollator(input_size=(SIDE, SIDE), patch_size=PATCH)
criterion = torch.nn.SmoothL1Loss()
momenta = iter([0.996 + step * (1.0 - 0.996) / (EPOCHS * BATCHES) for step in range(EPOCHS * BATCHES + 1)])
for _ in range(EPOCHS * BATCHES):
    images, context, targets = collate(list(torch.randn(BATCH, 3, SIDE, SIDE)))
    loss = criterion(*model(images, context, targets))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    model.update_target_encoder(next(momenta))
