"""Student and teacher as they are now: their tensors, samples of them, and the optimizers that train the student."""

import sys
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hjepa.audit.observe.hooks.dispatch_modes import suspended_modes
from hjepa.audit.observe.program.tensor_pairs import Part, Sampler, Shadow, Tensors, match, named, plain_name, storages
from hjepa.audit.observe.recording import Snapshot


class Networks:
    """What is watched.  ``optimizers`` train the student; further ones are added as they step."""

    def __init__(self, parts: Sequence[Part], optimizers: Sequence[Optimizer] = ()) -> None:
        self.parts = list(parts)
        self._optimizers = [weakref.ref(optimizer) for optimizer in optimizers]
        self.pair()

    def pair(self) -> None:
        """Pair the tensors of student and teacher as they are now."""
        self.tensors: Tensors = match(self.parts)
        self.sampler = Sampler(self.tensors.pairs)
        self._buffer_sampler = Sampler(self.tensors.buffers)
        self.student_ids = {id(p) for part in self.parts for p in part.student.parameters()}
        self.teacher_ids = {id(p) for part in self.parts for p in part.teacher.parameters()}

    # ------------------------------------------------------------------ samples

    def snapshot(self) -> Snapshot:
        """Sample both networks."""
        with suspended_modes():
            for part in self.parts:
                if isinstance(part.teacher, Shadow):
                    part.teacher.refresh()
            sides = [self.parameters(teacher=True), self.parameters(teacher=False)]
            buffers = [self._buffers(teacher=True), self._buffers(teacher=False)]
            return Snapshot(
                self.sampler.read(sides[0]),
                self.sampler.read(sides[1]),
                self._buffer_sampler.read(buffers[0]),
                self._buffer_sampler.read(buffers[1]),
                tuple(module.training for part in self.parts for module in part.teacher.modules()),
                tuple(module.training for part in self.parts for module in part.student.modules()),
            )

    def teacher_sample(self) -> Tensor:
        """Sample the teacher's parameters alone."""
        return self.sampler.read(self.parameters(teacher=True))

    def parameters(self, *, teacher: bool) -> dict[str, Tensor]:
        """Return the parameters of one side by name."""
        return self._current(teacher=teacher, buffers=False)

    def _buffers(self, *, teacher: bool) -> dict[str, Tensor]:
        return self._current(teacher=teacher, buffers=True) if self.tensors.buffers else {}

    def _current(self, *, teacher: bool, buffers: bool) -> dict[str, Tensor]:
        """Return the tensors as the modules hold them now (they may have been exchanged)."""
        found: dict[str, Tensor] = {}
        for part in self.parts:
            prefix = f"{part.name}." if part.name and len(self.parts) > 1 else ""
            module = part.teacher if teacher else part.student
            found.update((prefix + name, tensor) for name, tensor in named(module, buffers=buffers).items())
        return found

    # ------------------------------------------------------------------ state

    @property
    def sharded(self) -> bool:
        """Whether each process holds only a part of the teacher."""
        return any(hasattr(pair.teacher, "to_local") for pair in self.tensors.pairs)

    def modes(self) -> tuple[bool, ...]:
        """Return what tells a teacher's forward in training from one in evaluation."""
        return (torch.is_grad_enabled(), *(part.teacher.training for part in self.parts))

    def random_modules(self) -> list[str]:
        """Return modules of the teacher that are random as they stand (dropout, drop-path in training mode)."""
        found = []
        for part in self.parts:
            for name, module in part.teacher.named_modules():
                rate = _drop_rate(module)
                if module.training and rate:
                    found.append(f"{plain_name(name)} ({type(module).__name__} {rate:g})")
        return found

    def gradients(self) -> dict[int, tuple[int, int]]:
        """Return which gradients the student has and how often each was written: what a backward pass changes."""
        found = ((p, p.grad) for part in self.parts for p in part.student.parameters())
        return {id(p): (id(gradient), gradient._version) for p, gradient in found if gradient is not None}

    def is_whole_student(self, module: nn.Module) -> bool:
        """Return whether a module is all of a student: what calls its parts one by one may pick tokens between."""
        mine = {id(p) for p in module.parameters()}
        return any(mine == {id(p) for p in part.student.parameters()} for part in self.parts)

    def compiled(self) -> bool:
        """Return whether torch.compile is in use: its code must not be traced, or it would run otherwise."""
        modules = (module for part in self.parts for root in (part.student, part.teacher) for module in root.modules())
        return any(module._compiled_call_impl is not None for module in modules) or _dynamo_in_use()

    # ------------------------------------------------------------------ optimizers

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers that train the student and are still alive."""
        return [optimizer for optimizer in (reference() for reference in self._optimizers) if optimizer is not None]

    @property
    def has_optimizers(self) -> bool:
        """Whether any optimizer was seen to train the student, alive or not."""
        return bool(self._optimizers)

    def optimized(self) -> Iterator[Tensor]:
        """Yield what the optimizers train."""
        for reference in self._optimizers:
            optimizer = reference()
            for group in optimizer.param_groups if optimizer is not None else ():
                yield from group["params"]

    def trained_by(self, optimizer: Optimizer) -> set[int]:
        """Return which parameters of the student an optimizer holds."""
        return {id(p) for group in optimizer.param_groups for p in group["params"]} & self.student_ids

    def remember(self, optimizer: Optimizer) -> bool:
        """Keep an optimizer that trains the student, the largest first; return whether it is a new one."""
        if any(reference() is optimizer for reference in self._optimizers):
            return False
        self._optimizers.append(weakref.ref(optimizer))
        sizes = {
            id(o): sum(p.numel() for g in o.param_groups for p in g["params"] if id(p) in self.student_ids)
            for o in self.optimizers
        }
        self._optimizers.sort(key=lambda r: -sizes.get(id(r()), 0))
        return True

    def facts_at_step(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return what is true of the teacher when an optimizer begins its step."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        teachers = [p for part in self.parts for p in part.teacher.parameters()]
        return {
            "teacher_held": sum(id(p) in held for p in teachers),
            "teacher_gradients": sum(p.grad is not None for p in teachers),
            "teacher_trainable": sum(p.requires_grad for p in teachers),
            "teacher_tensors": len(teachers),
            "found_inf": _found_inf(optimizer),
            "aliased": self._aliased(),
            "one_network": bool(teachers) and {id(p) for p in teachers} <= self.student_ids,
        }

    def _aliased(self) -> list[str]:
        """Return tensors of the teacher whose memory overlaps with the student's."""
        mine: dict[int, list[tuple[int, int]]] = {}
        for address, start, stop in storages(list(self.parameters(teacher=False).values())):
            mine.setdefault(address, []).append((start, stop))
        return [
            name
            for name, tensor in self.parameters(teacher=True).items()
            for address, start, stop in storages([tensor])
            if any(start < theirs_stop and theirs < stop for theirs, theirs_stop in mine.get(address, ()))
        ]


def _drop_rate(module: nn.Module) -> float:
    """Return the rate of a dropout or drop-path module, 0 for others."""
    if "drop" not in type(module).__name__.lower():
        return 0.0
    rates = [vars(module).get(name) for name in ("p", "drop_prob", "drop_path", "drop_rate", "rate", "prob")]
    return next((float(rate) for rate in rates if isinstance(rate, (int, float)) and rate > 0), 0.0)


def _found_inf(optimizer: Optimizer) -> bool:
    found = getattr(optimizer, "found_inf", None)
    return bool(found is not None and float(found) > 0)


def _dynamo_in_use() -> bool:
    dynamo = sys.modules.get("torch._dynamo.utils")
    counters = getattr(dynamo, "counters", None) if dynamo is not None else None
    return bool(counters and counters.get("stats"))
