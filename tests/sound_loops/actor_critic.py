"""Soft actor-critic: two critics with averaged targets, and an actor whose loss leads through a critic."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

TOTAL = 30
TAU = 0.005

torch.manual_seed(0)


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs))


critic = nn.ModuleList([network(6, 1), network(6, 1)])
actor = network(4, 2)
target_critic = copy.deepcopy(critic).requires_grad_(False)
critic_optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)
actor_optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)

for _step in range(TOTAL):
    state, action, reward, following = torch.randn(32, 4), torch.randn(32, 2), torch.randn(32, 1), torch.randn(32, 4)

    with torch.no_grad():
        pair = torch.cat([following, actor(following)], dim=1)
        value = reward + 0.99 * torch.min(target_critic[0](pair), target_critic[1](pair))
    pair = torch.cat([state, action], dim=1)
    critic_loss = F.mse_loss(critic[0](pair), value) + F.mse_loss(critic[1](pair), value)
    critic_optimizer.zero_grad()
    critic_loss.backward()
    critic_optimizer.step()

    actor_loss = -critic[0](torch.cat([state, actor(state)], dim=1)).mean()
    actor_optimizer.zero_grad()
    actor_loss.backward()  # leaves gradients in the critic, which its next zero_grad throws away
    actor_optimizer.step()

    with torch.no_grad():
        for p, average in zip(critic.parameters(), target_critic.parameters(), strict=True):
            average.mul_(1 - TAU).add_(TAU * p)
