"""The loop that audit_overhead.py times: a ViT-S I-JEPA step on 224-pixel images, batch 32.  Knows of no audit."""

import copy
import hashlib
import json
import sys
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F


def main(steps: int, result: Path) -> None:
    torch.manual_seed(0)
    student = timm.create_model("vit_small_patch16_224", num_classes=0)
    predictor = torch.nn.Sequential(torch.nn.Linear(384, 384), torch.nn.GELU(), torch.nn.Linear(384, 384))
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.AdamW([*student.parameters(), *predictor.parameters()], lr=1e-3)
    images = torch.randn(32, 3, 224, 224)
    seconds, processor = [], []
    for step in range(steps):
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
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - busy)
    digest = hashlib.sha256(b"".join(p.numpy().tobytes() for p in teacher.parameters())).hexdigest()
    # Without the first step: allocators and kernels warm up in it.
    result.write_text(json.dumps({"seconds": sum(seconds[1:]), "processor": sum(processor[1:]), "digest": digest}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
