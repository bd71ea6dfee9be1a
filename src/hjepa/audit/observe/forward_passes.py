"""Forwards of student, teacher and trained modules outside both, and what enters and leaves them."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hjepa.audit.observe.backward_passes import GRAPH_STEPS, BackwardPasses
from hjepa.audit.observe.event_log import STUDENT, TEACHER, TRAINED
from hjepa.audit.observe.graph.gradients import leaves
from hjepa.audit.observe.hooks.dispatch_modes import suspended_modes
from hjepa.audit.observe.program.call_site import function
from hjepa.audit.observe.program.program_names import parameter_names
from hjepa.audit.observe.program.tensor_pairs import tensors_in
from hjepa.audit.observe.recording import Event, Kind
from hjepa.audit.observe.roles import Roles
from hjepa.audit.observe.window import Window

REPEATED_SNAPSHOTS = 8  # samples between two steps, of whether the teacher moved between two of its own forwards


class ForwardPasses:
    """Global hooks before and after the forward of every module."""

    def __init__(self, window: Window, roles: Roles, backwards: BackwardPasses) -> None:
        self._window, self._roles, self._backwards = window, roles, backwards
        self._log, self._networks = window.log, window.log.networks
        self._on_target: set[int] = set()
        self._module_names: dict[int, list[str]] = {}  # of trained modules that were called on the target branch
        self._teacher_outputs: dict[int, weakref.ref[Tensor]] = {}
        self._repeated = 0

    def step_is_over(self) -> None:
        """Let the samples of the next step begin."""
        self._repeated = 0

    def begins(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Hook before a forward."""
        if _elsewhere():
            return
        role = self._roles.of(module)
        inside = self._log.inside
        if role in (TEACHER, STUDENT):
            other = STUDENT if role is TEACHER else TEACHER
            if not inside[role] and not inside[other]:
                self._pass_begins(role, args)
            elif role is STUDENT and inside[TEACHER] and not inside[STUDENT]:
                self._online_on_target(module)
            inside[role] += 1
        elif role is TRAINED:
            if inside[TEACHER]:
                self._online_on_target(module)
            elif not inside[TRAINED] and self._gets_target(args):
                self._online_on_target(module)
                self._on_target.add(id(module))
            inside[TRAINED] += 1

    def ends(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Hook after a forward."""
        if _elsewhere():
            return
        role = self._roles.of(module)
        inside = self._log.inside
        if role not in inside or not inside[role]:
            return
        inside[role] -= 1
        if inside[role]:
            return
        if role is TEACHER and not inside[STUDENT]:
            self._teacher_ends(output)
        elif role is STUDENT and not inside[TEACHER]:
            self._student_ends(module, args, kwargs, output)
        elif role is TRAINED and id(module) in self._on_target:
            self._on_target.discard(id(module))
            self._watch_gradient(self._log.recording.events[-1], tensors_in(output))
        elif role is TRAINED and not inside[TEACHER] and not inside[STUDENT]:
            self._predictor_ends(args, kwargs, output)

    # ------------------------------------------------------------------ student and teacher

    def _pass_begins(self, role: str, args: tuple[Any, ...]) -> None:
        kind, end = (
            (Kind.TEACHER_FORWARD, Kind.TEACHER_END) if role is TEACHER else (Kind.STUDENT_FORWARD, Kind.STUDENT_END)
        )
        events, inputs = self._log.recording.events, tensors_in(args)
        if events and events[-1].kind is end and not (role is TEACHER and self._is_another_pass()):
            # The same pass goes on: a part called by itself, a second crop.
            before = next((event for event in reversed(events) if event.kind is kind), None)
            if before is not None:
                before.facts.setdefault("inputs", [before.facts.get("input")]).append(_identity(inputs))
        elif self._window.is_over():
            return
        else:
            event = self._log.record(kind, gradients=torch.is_grad_enabled(), cleared=self._backwards.cleared())
            event.facts["input"] = _identity(inputs)
            event.facts["modes"] = self._networks.modes()
            self._roles.teacher_ran |= role is TEACHER
            self._roles.student_ran |= role is STUDENT
            if role is TEACHER:
                event.facts["random"] = self._networks.random_modules()
        if role is TEACHER and self._window.tracer is not None:
            self._window.tracer.enter_teacher(inputs)

    def _is_another_pass(self) -> bool:
        """Return whether a forward of the teacher that follows its own belongs to another pass.

        A teacher that alone is evaluated may be updated between two of its forwards: in other modes, or it moved.
        """
        before = next((e for e in reversed(self._log.recording.events) if e.kind is Kind.TEACHER_FORWARD), None)
        if before is not None and before.facts.get("modes") != self._networks.modes():
            return True
        last = self._log.last_snapshot
        if last is None or self._repeated >= REPEATED_SNAPSHOTS:
            return False
        self._repeated += 1
        with suspended_modes():
            now = self._networks.teacher_sample()
        return now.shape == last.teacher.shape and not torch.equal(now, last.teacher)

    def _student_ends(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        event = self._log.record(Kind.STUDENT_END, snapshot=False, index=_indices(args, kwargs))
        event.facts["images_alone"] = self._networks.is_whole_student(module) and _one_argument(args, kwargs)
        event.facts["shape"] = next((tuple(t.shape) for t in tensors_in(output)), ())
        if self._window.tracer is not None:
            self._window.tracer.mark_student(tensors_in(output))

    def _teacher_ends(self, output: Any) -> None:
        tensors = tensors_in(output)
        facts: dict[str, Any] = {"graph": any(t.requires_grad for t in tensors), "reached": False}
        facts["shape"] = tuple(tensors[0].shape) if tensors else ()
        event = self._log.record(Kind.TEACHER_END, snapshot=False, **facts)
        if len(self._teacher_outputs) > 64:
            self._teacher_outputs.clear()
        for tensor in tensors:
            self._teacher_outputs[id(tensor)] = weakref.ref(tensor)
        self._watch_gradient(event, tensors)
        if self._window.tracer is not None:
            self._window.tracer.leave_teacher(tensors)

    def watch_mode(self, original: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Stand in for ``nn.Module.train``: note a student that is put into evaluation mode."""
        result = original(module, *args, **kwargs)
        if not module.training and any(module is part.student for part in self._networks.parts):
            self._window.guarded(self._eval_called)()
        return result

    def _eval_called(self) -> None:
        self._log.record(Kind.MODE, snapshot=False, function=function())

    # ------------------------------------------------------------------ the target branch

    def _watch_gradient(self, event: Event, targets: list[Tensor]) -> None:
        """Note in the event's facts what a target depends on, and whether gradient flows into it."""
        for tensor in targets:
            if tensor.requires_grad and tensor.grad_fn is not None and self._log.recording.steps < GRAPH_STEPS:
                event.facts["leaves"] = self._depends(tensor)
                tensor.register_hook(_Reached(event.facts))

    def _depends(self, tensor: Tensor) -> dict[str, int]:
        """Return how many trained tensors of which network the target depends on through its graph."""
        found = {"teacher": 0, "trained": 0}
        for leaf in leaves(tensor):
            found["teacher" if id(leaf) in self._networks.teacher_ids else "trained"] += 1
        return found

    def _gets_target(self, args: tuple[Any, ...]) -> bool:
        # All of its numbers: a predictor that is handed the targets beside the context need not use them.
        tensors = [tensor for tensor in tensors_in(args) if tensor.is_floating_point()]
        if self._window.tracer is not None and tensors and self._window.tracer.is_target(tensors):
            return True
        known = [(tensor, self._teacher_outputs.get(id(tensor))) for tensor in tensors]
        return bool(known) and all(reference is not None and reference() is tensor for tensor, reference in known)

    def _online_on_target(self, module: nn.Module) -> None:
        if any(True for p in module.parameters() if p.requires_grad):
            event = self._log.record(Kind.ONLINE_ON_TARGET, snapshot=False)
            trained = [p for p in module.parameters() if p.requires_grad]
            event.facts["parameters"] = [id(p) for p in trained]
            if id(module) not in self._module_names:
                self._module_names[id(module)] = sorted(parameter_names(trained).values())
            event.facts["tensors"] = self._module_names[id(module)]

    # ------------------------------------------------------------------ the predictor

    def _predictor_ends(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        index = _indices(args, kwargs)
        outputs = tensors_in(output)
        handed = tensors_in((args, kwargs))
        if not index or not outputs or not any(t.is_floating_point() and t.ndim >= 3 for t in handed):
            return
        event = self._log.record(Kind.PREDICTOR, snapshot=False, index=index)
        if outputs[0].requires_grad and self._log.recording.steps < GRAPH_STEPS:
            outputs[0].register_hook(_Rows(event.facts))


class _Reached:
    """Notes that a gradient flowed into the teacher's output."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def __call__(self, gradient: Tensor | None) -> None:
        # Where an output is left out of the loss, DDP and other functions hand back None or zeros.
        with suspended_modes():
            arrived = gradient is not None and bool((gradient != 0).any())
            self.facts["reached"] = self.facts.get("reached", False) or arrived


class _Rows:
    """Notes which tokens of the predictor's output the loss depends on, bool ``[..., T]``."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def __call__(self, gradient: Tensor | None) -> None:
        if gradient is None:
            return
        with suspended_modes():
            self.facts["rows"] = (gradient != 0).any(dim=-1).cpu()


def _identity(inputs: list[Tensor]) -> tuple[int, tuple[int, ...]] | None:
    """Return what tells whether two forwards got the very same images."""
    first = next((tensor for tensor in inputs if tensor.is_floating_point()), None)
    return (first.data_ptr(), tuple(first.shape)) if first is not None else None


def _one_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    given = [value for value in (*args, *kwargs.values()) if value is not None]
    return len(given) == 1 and isinstance(given[0], Tensor)


def _indices(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return integer tensors among the arguments: positions of tokens ``[..., T]``, or an empty list."""
    found = [t for t in tensors_in((args, kwargs)) if t.dtype in (torch.int32, torch.int64) and t.ndim >= 2]
    with suspended_modes():
        return [t.detach().to("cpu", copy=True) for t in found]


def _elsewhere() -> bool:
    """Return whether a compiler traces us, or a backward pass recomputes a forward (checkpointing)."""
    return torch.compiler.is_compiling() or torch._C._current_graph_task_id() != -1
