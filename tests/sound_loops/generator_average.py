"""A generator and a discriminator train in turn; the generator is averaged for sampling."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import WIDTH, average, network, teacher_of

torch.manual_seed(0)
generator = network()
average_generator = teacher_of(generator)
discriminator = nn.Sequential(nn.Linear(WIDTH, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
of_generator = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.0, 0.99))
of_discriminator = torch.optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.0, 0.99))
for step in range(30):
    made = generator(torch.randn(16, 16)).detach()
    loss = F.softplus(discriminator(made)).mean() + F.softplus(-discriminator(torch.randn(16, WIDTH))).mean()
    of_discriminator.zero_grad()
    loss.backward()
    of_discriminator.step()
    loss = F.softplus(-discriminator(generator(torch.randn(16, 16)))).mean()
    of_generator.zero_grad()
    loss.backward()
    of_generator.step()
    average(average_generator.parameters(), generator.parameters(), 0.995)
    if step % 5 == 4:
        with torch.no_grad():
            average_generator(torch.randn(8, 16))
