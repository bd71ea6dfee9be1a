"""DINO from lightly's building blocks, in the loop of its examples/pytorch/dino.py: 5 epochs of 5 batches."""

import copy

import torch
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.scheduler import cosine_schedule
from torchvision.models import resnet18

EPOCHS, BATCHES = 5, 5


class DINO(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.student_backbone = torch.nn.Sequential(*list(resnet18().children())[:-1])
        self.student_head = DINOProjectionHead(512, 128, 64, 256, freeze_last_layer=1)
        self.teacher_backbone = copy.deepcopy(self.student_backbone)
        self.teacher_head = DINOProjectionHead(512, 128, 64, 256)
        deactivate_requires_grad(self.teacher_backbone)
        deactivate_requires_grad(self.teacher_head)

    def forward(self, images):
        return self.student_head(self.student_backbone(images).flatten(1))

    def forward_teacher(self, images):
        return self.teacher_head(self.teacher_backbone(images).flatten(1))


torch.manual_seed(0)
model = DINO()
criterion = DINOLoss(output_dim=256, warmup_teacher_temp_epochs=2)
optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
for epoch in range(EPOCHS):
    momentum = cosine_schedule(epoch, EPOCHS, 0.996, 1)
    for _ in range(BATCHES):
        update_momentum(model.student_backbone, model.teacher_backbone, m=momentum)
        update_momentum(model.student_head, model.teacher_head, m=momentum)
        views = list(torch.randn(4, 8, 3, 32, 32))
        targets = [model.forward_teacher(view) for view in views[:2]]
        loss = criterion(targets, [model(view) for view in views], epoch=epoch)
        loss.backward()
        model.student_head.cancel_last_layer_gradients(current_epoch=epoch)
        optimizer.step()
        optimizer.zero_grad()
