"""MoCo from lightly's building blocks, in the loop of its examples/pytorch/moco.py: 5 epochs of 5 batches."""

import copy

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.scheduler import cosine_schedule
from torchvision.models import resnet18

EPOCHS, BATCHES = 5, 5


class MoCo(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Sequential(*list(resnet18().children())[:-1])
        self.projection_head = MoCoProjectionHead(512, 128, 64)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)

    def forward(self, images):
        return self.projection_head(self.backbone(images).flatten(1))

    def forward_momentum(self, images):
        return self.projection_head_momentum(self.backbone_momentum(images).flatten(1)).detach()


torch.manual_seed(0)
model = MoCo()
criterion = NTXentLoss(memory_bank_size=(256, 64))
optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
for epoch in range(EPOCHS):
    momentum = cosine_schedule(epoch, EPOCHS, 0.996, 1)
    for _ in range(BATCHES):
        update_momentum(model.backbone, model.backbone_momentum, m=momentum)
        update_momentum(model.projection_head, model.projection_head_momentum, m=momentum)
        query, key = torch.randn(2, 8, 3, 32, 32)
        loss = criterion(model(query), model.forward_momentum(key))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
