"""pytorch-ignite's EMAHandler attached to an Engine; ``every5`` attaches it as its documentation's first example."""

import sys

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


def train_step(engine, batch):
    inputs, labels = batch
    loss = nn.functional.cross_entropy(model(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss)


trainer = Engine(train_step)
handler = EMAHandler(model, momentum=0.0002)
event = Events.ITERATION_COMPLETED(every=5) if sys.argv[1:] == ["every5"] else Events.ITERATION_COMPLETED
handler.attach(trainer, name="ema_momentum", event=event)


@trainer.on(Events.EPOCH_COMPLETED)
def validate(engine):
    with torch.no_grad():
        handler.ema_model(torch.randn(32, 16))


trainer.run([(torch.randn(32, 16), torch.randint(4, (32,))) for _ in range(8)], max_epochs=13)
