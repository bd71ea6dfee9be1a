"""torch.optim.swa_utils.AveragedModel with get_ema_multi_avg_fn(0.999), as in torch's documentation, as a teacher."""

import torch
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 10))
ema_model = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for _ in range(24):
    inputs, labels = torch.randn(16, 32), torch.randint(10, (16,))
    outputs = model(inputs + 0.1 * torch.randn_like(inputs))
    with torch.no_grad():
        targets = ema_model(inputs)
    loss = cross_entropy(outputs, labels) + mse_loss(outputs, targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    ema_model.update_parameters(model)
