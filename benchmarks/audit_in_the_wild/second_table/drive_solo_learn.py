"""solo-learn's MomentumUpdater in the order of its BaseMomentumMethod: update and tau after every training batch.

The package needs an older torch than this one; the class is loaded from its file, which imports torch alone.
"""

import copy
import importlib.util
from pathlib import Path

import torch
from torch import nn
from torchvision.models import resnet18

place = Path(importlib.util.find_spec("solo").submodule_search_locations[0]) / "utils" / "momentum.py"
spec = importlib.util.spec_from_file_location("solo_momentum", place)
momentum = importlib.util.module_from_spec(spec)
spec.loader.exec_module(momentum)


class Method(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(resnet18(num_classes=64))
        self.momentum_encoder = copy.deepcopy(self.encoder)
        self.predictor = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        self.classifier, self.momentum_classifier = nn.Linear(64, 4), nn.Linear(64, 4)
        momentum.initialize_momentum_params(self.encoder, self.momentum_encoder)


torch.manual_seed(0)
STEPS = 24
method, updater = Method(), momentum.MomentumUpdater(0.996, 1.0)
optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
for step in range(1, STEPS + 1):
    one, other, labels = torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32), torch.randint(4, (8,))
    features = method.encoder(one)
    with torch.no_grad():
        wanted = method.momentum_encoder(other)
    loss = 2 - 2 * nn.functional.cosine_similarity(method.predictor(features), wanted).mean()
    loss = loss + nn.functional.cross_entropy(method.classifier(features.detach()), labels)
    loss = loss + nn.functional.cross_entropy(method.momentum_classifier(wanted), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    updater.update(method.encoder, method.momentum_encoder)
    updater.update_tau(cur_step=step, max_steps=STEPS)
