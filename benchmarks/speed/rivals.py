"""Who is measured. Each is built in a process of its own and answers how long so many steps took (``turns.py``)."""

import contextlib
import copy
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.speed.plain_loop import PlainLoop
from benchmarks.speed.sizes import Size, resolved_size, sized
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from hjepa.api import TrainingCallback
from hjepa.data.sources import open_source
from hjepa.runs.folder import RunFolder
from hjepa.runs.record import new_record
from hjepa.runs.session import Session
from hjepa.setup.build import Parts, build
from hjepa.setup.machine import autocast_dtype, keep_freed_memory, peak_memory_gb
from hjepa.training.trainer import train_loop

RIVALS = ("end to end", "step", "plain", "lightly")
MATRIX = "matrix product"
Take = Callable[[int], None]  # takes so many steps


class Worker:
    """One rival: its steps, and the arithmetic of one of them."""

    def __init__(self, which: str, size: Size, precision: str, device: str) -> None:
        self.device = torch.device(device)
        self.folder = tempfile.TemporaryDirectory()
        if which == MATRIX:
            self.take: Take = matrix_products(self.device, precision)
            return
        if device == "cpu":
            keep_freed_memory()  # as `hjepa pretrain` does, for everybody
        source = open_source(size.images())
        # Only the product needs to find out which kernel of attention is the faster.
        given = {} if which in ("end to end", "step") else {"attention": "plain"}
        parts = build(resolved_size(size, source, precision, device, 100_000, **given), source)
        self.take = getattr(self, "_" + which.replace(" ", "_"))(parts, size)

    def _end_to_end(self, parts: Parts, size: Size) -> Take:
        """Images, masks, the step, health and metrics: what a user gets."""
        folder = RunFolder(Path(self.folder.name) / "run")
        record = new_record("", parts.source, parts.trainer.model, parts.resolved.config)
        folder.create(record, overwrite=False)
        session = Session(parts, folder, record, TrainingCallback())
        return steps_of(session.trainer, session.batches(0), session._after_step)

    def _step(self, parts: Parts, size: Size) -> Take:
        """The step alone, on batches that lie ready."""
        ready = list(itertools.islice(parts.batches(0), 4))
        return steps_of(parts.trainer, itertools.cycle(ready), lambda result, waited: False)

    def _plain(self, parts: Parts, size: Size) -> Take:
        """The loop of ``plain_loop.py`` on the same batches."""
        loop = PlainLoop(
            encoder=size.encoder, predictor=size.predictor, patch=size.patch, side=size.image // size.patch,
            total_steps=100_000, device=self.device, autocast=autocast_dtype(parts.resolved.config.train.precision),
        )  # fmt: skip
        return self._taking(parts, loop.step)

    def _lightly(self, parts: Parts, size: Size) -> Take:
        """lightly's modules in the loop its documentation shows, on the same batches."""
        return self._taking(parts, lightly_step(parts, size, self.device))

    def _taking(self, parts: Parts, step: Callable[..., Any]) -> Take:
        ready = itertools.cycle([part for (part,) in itertools.islice(parts.batches(0), 4)])

        def take(steps: int) -> None:
            for batch in itertools.islice(ready, steps):
                step(batch.images, batch.context_index, batch.target_index)

        return take

    def timed(self, steps: int) -> dict[str, float]:
        """Take steps; return seconds on the clock and of the processor, and the peak of memory so far."""
        wall, processor = time.perf_counter(), time.process_time()
        self.take(steps)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        return {"wall": wall, "processor": processor, "memory_gb": peak_memory_gb(self.device)}

    def arithmetic(self) -> float:
        """Return the floating-point operations of the products of one step."""
        with FlopCounterMode(display=False) as counter:
            self.take(1)
        return float(counter.get_total_flops())

    def profiled(self, path: Path) -> None:
        """Write a profile of two steps."""
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])]
        with profile(activities=kinds) as found:
            self.take(2)
        order = "self_cuda_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        path.write_text(found.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=48))


def steps_of(trainer: Any, stream: Iterator[Any], after_step: Callable[..., bool]) -> Take:
    """Return how the product takes steps, whatever is wrapped around its step."""

    def take(steps: int) -> None:
        until = trainer.step + steps
        train_loop(trainer, stream, total_steps=lambda: until, after_step=after_step)

    return take


def matrix_products(device: torch.device, precision: str) -> Take:
    """Return products of square matrices: the peak that a step is compared with. One "step" is one product."""
    a = torch.ones(matrix_side(device), matrix_side(device), dtype=autocast_dtype(precision), device=device)

    def take(steps: int) -> None:
        for _ in range(steps):
            torch.matmul(a, a)

    return take


def matrix_side(device: torch.device) -> int:
    """Return the side of the matrices: on a CPU small enough for its caches, on a card large enough to fill it."""
    return 1024 if device.type == "cpu" else 8192


def lightly_step(parts: Parts, size: Size, device: torch.device) -> Callable[[Tensor, Tensor, Tensor], None]:
    """Return a step with lightly's I-JEPA modules for timm; raises ImportError where lightly is missing."""
    from lightly.models.modules import IJEPAPredictorTIMM, MaskedVisionTransformerTIMM
    from timm.models.vision_transformer import VisionTransformer

    (width, depth, heads), (narrow, shallow, predictor_heads) = size.encoder, size.predictor
    vit = VisionTransformer(
        img_size=size.image, patch_size=size.patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=0,
        class_token=False, global_pool="",
    )  # fmt: skip
    student = MaskedVisionTransformerTIMM(vit).to(device)
    predictor = IJEPAPredictorTIMM(
        num_patches=(size.image // size.patch) ** 2, depth=shallow, mlp_dim=width, predictor_embed_dim=narrow,
        num_heads=predictor_heads,
    ).to(device)  # fmt: skip
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.AdamW([*student.parameters(), *predictor.parameters()], lr=1.5e-4)
    autocast = autocast_dtype(parts.resolved.config.train.precision)

    def step(images: Tensor, context: Tensor, targets: Tensor) -> None:
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            with torch.no_grad():
                h = teacher.encode(images)
                h = F.layer_norm(h, (h.size(-1),))
                wanted = torch.cat([h.gather(1, t[..., None].expand(-1, -1, h.shape[2])) for t in targets.unbind(1)])
            found = predictor(student.encode(images, idx_keep=context), context, list(targets.unbind(1)))
        loss = F.smooth_l1_loss(found.float(), wanted.float())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for q, k in zip(student.parameters(), teacher.parameters(), strict=True):
                k.mul_(0.996).add_(0.004 * q.detach())

    return step


def serve(which: str, size: str, batch: str, precision: str, device: str) -> None:
    """Answer requests on standard input, a line each: a number of steps, ``arithmetic`` or ``profile PATH``."""
    with contextlib.redirect_stdout(sys.stderr):
        worker = Worker(which, sized(size, int(batch)), precision, device)
        worker.timed(1)  # allocates
    print("{}", flush=True)
    for line in sys.stdin:
        request, _, rest = line.strip().partition(" ")
        answer: Any = {}
        if request == "arithmetic":
            answer = {"flops": worker.arithmetic()}
        elif request == "profile":
            worker.profiled(Path(rest))
        else:
            answer = worker.timed(int(request))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
