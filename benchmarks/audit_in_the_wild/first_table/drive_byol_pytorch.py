"""byol-pytorch's BYOL learner, in the loop of its README: 24 steps, small sizes, otherwise its defaults."""

import torch
from byol_pytorch import BYOL
from torchvision.models import resnet18

torch.manual_seed(0)
learner = BYOL(resnet18(), image_size=32, hidden_layer="avgpool", projection_size=64, projection_hidden_size=128)
optimizer = torch.optim.Adam(learner.parameters(), lr=3e-4)
for _ in range(24):
    loss = learner(torch.rand(8, 3, 32, 32))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    learner.update_moving_average()
