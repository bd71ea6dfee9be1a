"""MoCo v2: queue, key encoder updated between query and key forward (order B'), new storage by param.data = ..."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_views import backbone, head, two_views


class MoCo(nn.Module):
    """Query encoder, key encoder and a queue of negatives."""

    def __init__(self, dim: int = 16, size: int = 256, momentum: float = 0.999, temperature: float = 0.2) -> None:
        super().__init__()
        self.m, self.temperature = momentum, temperature
        self.encoder_q = nn.Sequential(backbone(), head(32, dim))
        self.encoder_k = nn.Sequential(backbone(), head(32, dim))
        for param_q, param_k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
            param_k.data.copy_(param_q.data)
            param_k.requires_grad = False
        self.register_buffer("queue", F.normalize(torch.randn(dim, size), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def _momentum_update_key_encoder(self) -> None:
        for param_q, param_k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
            param_k.data = param_k.data * self.m + param_q.data * (1.0 - self.m)

    @torch.no_grad()
    def _dequeue_and_enqueue(self, keys: Tensor) -> None:
        ptr = int(self.queue_ptr)
        self.queue[:, ptr : ptr + len(keys)] = keys.T
        self.queue_ptr[0] = (ptr + len(keys)) % self.queue.shape[1]

    def forward(self, im_q: Tensor, im_k: Tensor) -> tuple[Tensor, Tensor]:
        q = F.normalize(self.encoder_q(im_q), dim=1)
        with torch.no_grad():
            self._momentum_update_key_encoder()
            order = torch.randperm(len(im_k))
            k = F.normalize(self.encoder_k(im_k[order]), dim=1)[order.argsort()]
        positive = (q * k).sum(1, keepdim=True)
        negative = q @ self.queue.clone().detach()
        logits = torch.cat([positive, negative], dim=1) / self.temperature
        self._dequeue_and_enqueue(k)
        return logits, torch.zeros(len(logits), dtype=torch.long)


def train(model: MoCo, steps: int) -> None:
    optimizer = torch.optim.SGD(model.encoder_q.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
    model.train()
    for _ in range(steps):
        logits, labels = model(*two_views())
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    torch.manual_seed(0)
    train(MoCo(), steps=30)
