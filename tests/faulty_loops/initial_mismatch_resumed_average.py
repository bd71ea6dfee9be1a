"""Fault: a resumed run restores model and optimizer, and wraps the model in a new average."""

import copy
import sys
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

sys.path.insert(0, str(Path(__file__).parents[1] / "loop_parts"))
from tiny_teacher import loss_of, network

torch.manual_seed(0)
student = network()
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
saved = {"model": copy.deepcopy(student.state_dict()), "optimizer": optimizer.state_dict(), "step": 500}
student.load_state_dict(saved["model"])
optimizer.load_state_dict(saved["optimizer"])
teacher = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.998))  # FAULT
teacher.n_averaged.fill_(saved["step"])
for _ in range(30):
    loss = loss_of(student, teacher.module)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    teacher.update_parameters(student)
