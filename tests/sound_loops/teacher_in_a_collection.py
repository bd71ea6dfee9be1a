"""The average is kept in a dictionary of new tensors, or in a list that is averaged in place."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import WIDTH, network

KIND = sys.argv[1]
torch.manual_seed(0)
student = network()
names = [name for name, _ in student.named_parameters()]
shadow = {name: p.detach().clone() for name, p in student.named_parameters()}
ema = list(shadow.values()) if KIND == "list" else []
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
for _ in range(30):
    batch = torch.randn(16, 16)
    with torch.no_grad():
        average = dict(zip(names, ema, strict=True)) if KIND == "list" else shadow
        wanted = F.layer_norm(torch.func.functional_call(student, average, (batch,)), (WIDTH,))
    loss = F.mse_loss(student(batch + 0.2 * torch.randn_like(batch)), wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        if KIND == "list":
            torch._foreach_lerp_(ema, list(student.parameters()), 0.01)
        else:
            shadow = {name: 0.99 * shadow[name] + 0.01 * p for name, p in student.named_parameters()}
