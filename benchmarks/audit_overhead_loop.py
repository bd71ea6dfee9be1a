"""The loop that audit_overhead.py times: a ViT-S I-JEPA step on 224-pixel images.  Knows of no audit.

Takes a step for each line of its input, and answers each with the seconds and the processor seconds it took.
"""

import copy
import hashlib
import json
import sys
import time

import timm
import torch
import torch.nn.functional as F


def main(steps: int, batch: int) -> None:
    torch.manual_seed(0)
    student = timm.create_model("vit_small_patch16_224", num_classes=0)
    predictor = torch.nn.Sequential(torch.nn.Linear(384, 384), torch.nn.GELU(), torch.nn.Linear(384, 384))
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.AdamW([*student.parameters(), *predictor.parameters()], lr=1e-3)
    images = torch.randn(batch, 3, 224, 224)
    for step in range(steps):
        sys.stdin.readline()  # our turn
        began, busy = time.perf_counter(), time.process_time()
        with torch.no_grad():
            target = F.layer_norm(teacher.forward_features(images), (384,))
        loss = F.smooth_l1_loss(predictor(student.forward_features(images)), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        momentum = 0.996 + 0.004 * step / steps
        with torch.no_grad():
            for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
                t.mul_(momentum).add_(s, alpha=1 - momentum)
        print(json.dumps([time.perf_counter() - began, time.process_time() - busy]), flush=True)
    print(hashlib.sha256(b"".join(p.numpy().tobytes() for p in teacher.parameters())).hexdigest(), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
