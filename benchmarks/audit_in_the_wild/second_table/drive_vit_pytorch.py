"""vit-pytorch's Dino around a small ViT, trained as its README shows; ``esvit`` runs its EsViTTrainer instead."""

import sys

import torch
from torchvision.models import resnet18
from vit_pytorch import Dino, ViT
from vit_pytorch.es_vit import EsViTTrainer

torch.manual_seed(0)
if sys.argv[1:] == ["esvit"]:
    learner = EsViTTrainer(
        resnet18(),
        image_size=32,
        hidden_layer="layer4",
        num_classes_K=256,
        projection_hidden_size=64,
        moving_average_decay=0.9,
    )
else:
    model = ViT(image_size=32, patch_size=8, num_classes=10, dim=64, depth=2, heads=4, mlp_dim=128)
    learner = Dino(
        model,
        image_size=32,
        hidden_layer="to_latent",
        projection_hidden_size=64,
        num_classes_K=256,
        student_temp=0.9,
        teacher_temp=0.04,
        moving_average_decay=0.9,
    )
optimizer = torch.optim.Adam(learner.parameters(), lr=3e-4)
for _ in range(24):
    loss = learner(torch.randn(8, 3, 32, 32))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    learner.update_moving_average()
