"""Watches a training loop from outside: hooks, and samples of the weights at chosen instants.

Nothing here changes what it watches: no random number is drawn, no graph is kept, no flag is set, no
collective is called.  Hooks are global ones, so modules, their copies and their pickles stay as they are.
"""

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from hjepa.audit.observe import replicas
from hjepa.audit.observe.graph.gradients import UnheldParameters, leaves
from hjepa.audit.observe.graph.loss_graph import Criterion
from hjepa.audit.observe.hooks.dispatch_modes import suspended_modes
from hjepa.audit.observe.hooks.interception import intercept
from hjepa.audit.observe.hooks.step_hooks import at_work, remove_if_safe
from hjepa.audit.observe.program.call_site import caller, function, local_variables, stack
from hjepa.audit.observe.program.program_names import parameter_names
from hjepa.audit.observe.program.tensor_pairs import (
    Part,
    Sampler,
    Shadow,
    Tensors,
    live_modules,
    match,
    named,
    plain_name,
    storages,
)
from hjepa.audit.observe.recording import Event, Kind, Recording, Snapshot
from hjepa.audit.observe.tracing import Tracer

TEACHER, STUDENT, ENCLOSING, TRAINED, NEITHER = "teacher", "student", "enclosing", "trained", "neither"
LOCATED_STEPS = 3  # steps of which every event's place in the code is noted
GRAPH_STEPS = 4  # steps in which the loss is looked into
UNHELD_STEPS = (1, 2)  # steps in which the loss is searched for parameters that no optimizer holds
_OF_THE_OPTIMIZER = (Kind.STEP, Kind.BACKWARD_END, Kind.OTHER_BACKWARD)  # in a step, what follows these is its own work
REPEATED_SNAPSHOTS = 8  # looks between two steps at whether the teacher moved between two of its own forwards
EVALUATION_SNAPSHOTS = 16  # samples of the weights between two steps that are spent on evaluation


class Observer:
    """Records one subject for ``steps`` optimizer steps.

    ``parts`` are student and teacher modules; ``optimizers`` those that train the student (found by
    themselves when none are given).  ``trace`` names the steps of which every operation is followed.  ``called``:
    the owner calls ``before_step`` and ``after_step``, as hooks must not come and go while torch goes through them.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        optimizers: Sequence[Optimizer] = (),
        steps: int = 20,
        trace: Sequence[int] = (),
        on_done: Callable[[], None] | None = None,
        called: bool = False,
    ) -> None:
        self._called = called
        self.parts = list(parts)
        self.steps = steps
        self.recording = Recording()
        self.criterion = Criterion()
        self._unheld = UnheldParameters()
        self._optimizers = [weakref.ref(optimizer) for optimizer in optimizers]
        self._round: set[int] = set()  # parameters of the student that this round of steps has trained
        self.recording.optimizers = [type(optimizer).__name__ for optimizer in optimizers]
        self._on_done = on_done
        self.on_stranger: Callable[[Optimizer, Any, Any], None] | None = None  # steps, and does not train the student
        self._trace_steps = frozenset(trace)
        self._tracer: Tracer | None = None
        self._open = contextlib.ExitStack()
        self.hooks: list[RemovableHandle] = []  # of optimizers
        self._roles: dict[int, tuple[weakref.ref[nn.Module], str]] = {}
        self._inside = {TEACHER: 0, STUDENT: 0, TRAINED: 0}
        self._stepping: list[int] = []
        self._on_target: set[int] = set()
        self._module_names: dict[int, list[str]] = {}  # of trained modules that were called on the target branch
        self._replacement_candidates: dict[int, weakref.ref[nn.Module]] = {}
        kinds = {type(part.teacher) for part in self.parts}
        self._preexisting_modules = [weakref.ref(module) for module in live_modules() if type(module) in kinds]
        self._teacher_ran = self._trains = False  # since the last optimizer step
        self._teacher_runs: bool | None = None  # in each step so far; None: none has been seen from its beginning
        self.last_snapshot: Snapshot | None = None
        self.published: int | None = None
        self._snapshots_since_step = self._repeated = 0
        self._backwards = 0
        self._teacher_outputs: dict[int, weakref.ref[Tensor]] = {}
        self.pair()

    # ------------------------------------------------------------------ what is watched

    def pair(self) -> None:
        """Pair the tensors of student and teacher as they are now."""
        self.tensors: Tensors = match(self.parts)
        self.sampler = Sampler(self.tensors.pairs)
        self._buffer_sampler = Sampler(self.tensors.buffers)
        self._trained_ids = {id(p) for part in self.parts for p in part.student.parameters()}
        self._teacher_ids = {id(p) for part in self.parts for p in part.teacher.parameters()}
        self._roles.clear()
        for part in self.parts:
            for role, root in ((STUDENT, part.student), (TEACHER, part.teacher)):
                for module in root.modules():
                    self._roles.setdefault(id(module), (weakref.ref(module), role))

    def _role(self, module: nn.Module) -> str:
        known = self._roles.get(id(module))
        if known is not None and known[0]() is module:
            return known[1]
        role = self._new_role(module)
        self._roles[id(module)] = (weakref.ref(module), role)
        return role

    def _new_role(self, module: nn.Module) -> str:
        inside = {id(child) for child in module.modules()}
        if any(id(part.student) in inside or id(part.teacher) in inside for part in self.parts):
            return ENCLOSING
        for number, part in enumerate(() if self._was_there(module) else self.parts):
            if _same_kind(module, part.teacher) and not _same_parameters(module, part.student):
                trained = {id(p) for p in self.optimized()}
                if not any(id(p) in trained for p in module.parameters()):
                    self._replacement_candidates[number] = weakref.ref(module)
                    return NEITHER
        return TRAINED if any(p.requires_grad for p in module.parameters()) else NEITHER

    def _was_there(self, module: nn.Module) -> bool:
        """Return whether the module is one that stood beside the teacher when the audit began."""
        return any(reference() is module for reference in self._preexisting_modules)

    def _adopt_replacement(self) -> None:
        """Take a new look-alike that ran for the teacher if the teacher did not run before this step.

        A second average or a copy that is evaluated runs beside the teacher, not in its place; and where the
        teacher runs only now and then, that it did not run says nothing.
        """
        candidates, self._replacement_candidates = self._replacement_candidates, {}
        modules = {number: module for number, reference in candidates.items() if (module := reference()) is not None}
        if self._trains and not self._teacher_ran and self._teacher_runs is not False and modules:
            for number, module in modules.items():
                self._replaced(number, module)
        elif self._trains:
            self._teacher_runs = self._teacher_ran and self._teacher_runs is not False
        self._teacher_ran = self._trains = False

    def _replaced(self, number: int, module: nn.Module) -> None:
        before = self.parts[number]
        self.parts[number] = Part(before.student, module, before.name)
        self._record(Kind.REPLACED, snapshot=False, name=before.name or type(module).__name__)
        self.pair()
        self.last_snapshot = None

    def optimized(self) -> Iterator[Tensor]:
        """Yield what the optimizers train."""
        for reference in self._optimizers:
            optimizer = reference()
            for group in optimizer.param_groups if optimizer is not None else ():
                yield from group["params"]

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers that train the student and are still alive."""
        return [optimizer for optimizer in (reference() for reference in self._optimizers) if optimizer is not None]

    # ------------------------------------------------------------------ start and stop

    def start(self) -> None:
        """Register everything."""
        if not self._called:
            self.hooks += [
                register_optimizer_step_pre_hook(self._hooked(self.before_step)),
                register_optimizer_step_post_hook(self._hooked(self.after_step)),
            ]
        for hook in self.hooks:
            self._open.callback(remove_if_safe, hook)
        begins, ends = (self._guarded(hook, apart=False) for hook in (self._forward_begins, self._forward_ends))
        pre = nn.modules.module.register_module_forward_pre_hook(begins)
        post = nn.modules.module.register_module_forward_hook(ends, with_kwargs=True)
        self._open.callback(pre.remove)
        self._open.callback(post.remove)
        if self.compiled():
            self.recording.problems.append("compiled code is in use: what happens inside forwards is not seen")
        self._open.callback(intercept(torch.autograd, "backward", self._backward))
        self._open.callback(intercept(torch.amp.GradScaler, "unscale_", self._unscale))
        self._open.callback(intercept(torch.amp.GradScaler, "step", self._scaler_step))
        self._open.callback(intercept(nn.Module, "train", self._train))
        for name in ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_"):
            for owner in (torch.nn.utils, torch.nn.utils.clip_grad):
                if hasattr(owner, name):
                    self._open.callback(intercept(owner, name, self._clip))

    def _guarded(self, hook: Callable[..., Any], *, apart: bool = True) -> Callable[..., None]:
        """Return the hook so that an error of ours ends the audit, never the program that is audited.

        ``apart`` from the program's modes; not the hooks of every module's forward, which compute nothing but looks.
        """

        def guarded(*args: Any, **kwargs: Any) -> None:
            if torch.compiler.is_compiling() or self.recording.finished:
                return
            try:
                if self._tracer is not None and self._tracer.error is not None:
                    raise self._tracer.error
                with suspended_modes() if apart else torch._C.DisableTorchFunction():
                    hook(*args, **kwargs)
            except Exception as error:  # noqa: BLE001
                self.failed(error)

        return guarded

    def before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Hook before an optimizer's step."""
        self._guarded(self.step_begins)(optimizer, args, kwargs)

    def after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Hook after an optimizer's step."""
        self._guarded(self._step_ends)(optimizer, args, kwargs)

    @staticmethod
    def _hooked(hook: Callable[..., None]) -> Callable[..., None]:
        def hooked(*args: Any) -> None:
            with at_work():
                hook(*args)

        return hooked

    def failed(self, error: Exception) -> None:
        """End the audit after an error of ours; the report says so."""
        self.recording.problems.append(f"the audit ended early by an error of its own: {type(error).__name__}: {error}")
        if not self.recording.finished:
            self._close()

    def stop(self) -> None:
        """Take a last look and remove everything; the second call does nothing."""
        if not self.recording.finished:
            if self.last_snapshot is not None or self.recording.events:
                self._record(Kind.END)
            self._close()
        for hook in self.hooks:
            hook.remove()

    def abandon(self) -> None:
        """Remove everything without a word: another pair is watched."""
        self._on_done = None
        self.recording.finished = True
        self._stop_tracing()
        self._open.close()

    def teacher_moved(self) -> bool:
        """Return whether the teacher has changed since the first look."""
        first = next((event.snapshot for event in self.recording.events if event.snapshot is not None), None)
        now = self.sampler.read(self._parameters(teacher=True))
        return first is None or now.shape != first.teacher.shape or not torch.equal(now, first.teacher)

    def _close(self) -> None:
        self.recording.finished = True
        self._stop_tracing()
        self._open.close()
        self.recording.unheld = self._unheld.settled() if self._unheld.looked else None
        if self._on_done is not None:
            with suspended_modes():
                self._on_done()

    def compiled(self) -> bool:
        """Return whether torch.compile is in use: its code must not be traced, or it would run otherwise."""
        modules = (module for part in self.parts for root in (part.student, part.teacher) for module in root.modules())
        return any(module._compiled_call_impl is not None for module in modules) or _dynamo_in_use()

    # ------------------------------------------------------------------ looks

    def _snapshot(self) -> Snapshot:
        with suspended_modes():
            for part in self.parts:
                if isinstance(part.teacher, Shadow):
                    part.teacher.refresh()
            sides = [self._parameters(teacher=True), self._parameters(teacher=False)]
            buffers = [self._buffers(teacher=True), self._buffers(teacher=False)]
            snapshot = Snapshot(
                self.sampler.read(sides[0]),
                self.sampler.read(sides[1]),
                self._buffer_sampler.read(buffers[0]),
                self._buffer_sampler.read(buffers[1]),
                tuple(module.training for part in self.parts for module in part.teacher.modules()),
                tuple(module.training for part in self.parts for module in part.student.modules()),
            )
        self.last_snapshot = snapshot
        return snapshot

    def _parameters(self, *, teacher: bool) -> dict[str, Tensor]:
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

    def _record(self, kind: Kind, *, snapshot: bool = True, **facts: Any) -> Event:
        step = self.recording.steps
        event = Event(kind, step, facts=facts)
        if step <= LOCATED_STEPS:
            event.location = caller()
        if snapshot and self._snapshots_since_step < EVALUATION_SNAPSHOTS + 4 * (self._backwards + 1):
            event.snapshot = self._snapshot()
            self._snapshots_since_step += 1
        self.recording.events.append(event)
        if self._tracer is not None:
            self._tracer.events = len(self.recording.events)
        return event

    # ------------------------------------------------------------------ forwards

    def _forward_begins(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if _elsewhere():
            return
        role = self._role(module)
        inside = self._inside
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

    def _pass_begins(self, role: str, args: tuple[Any, ...]) -> None:
        kind, end = (
            (Kind.TEACHER_FORWARD, Kind.TEACHER_END) if role is TEACHER else (Kind.STUDENT_FORWARD, Kind.STUDENT_END)
        )
        events, inputs = self.recording.events, _tensors(args)
        if events and events[-1].kind is end and not (role is TEACHER and self._is_another_pass()):
            # The same pass goes on: a part called by itself, a second crop.
            before = next((event for event in reversed(events) if event.kind is kind), None)
            if before is not None:
                before.facts.setdefault("inputs", [before.facts.get("input")]).append(_identity(inputs))
        elif self._window_is_over():
            return
        else:
            event = self._record(kind, gradients=torch.is_grad_enabled(), cleared=self._cleared())
            event.facts["input"] = _identity(inputs)
            event.facts["modes"] = self._modes()
            self._teacher_ran |= role is TEACHER
            self._trains |= role is STUDENT
            if role is TEACHER:
                event.facts["random"] = self._random_modules()
        if role is TEACHER and self._tracer is not None:
            self._tracer.enter_teacher(inputs)

    def _modes(self) -> tuple[bool, ...]:
        """Return what tells a teacher's forward in training from one in evaluation."""
        return (torch.is_grad_enabled(), *(part.teacher.training for part in self.parts))

    def _is_another_pass(self) -> bool:
        """Return whether a forward of the teacher that follows its own belongs to another pass.

        A teacher that alone is evaluated may be updated between two of its forwards: in other modes, or it moved.
        """
        before = next((e for e in reversed(self.recording.events) if e.kind is Kind.TEACHER_FORWARD), None)
        if before is not None and before.facts.get("modes") != self._modes():
            return True
        if self.last_snapshot is None or self._repeated >= REPEATED_SNAPSHOTS:
            return False
        self._repeated += 1
        with suspended_modes():
            now = self.sampler.read(self._parameters(teacher=True))
        return now.shape == self.last_snapshot.teacher.shape and not torch.equal(now, self.last_snapshot.teacher)

    def _forward_ends(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if _elsewhere():
            return
        role = self._role(module)
        inside = self._inside
        if role not in inside or not inside[role]:
            return
        inside[role] -= 1
        if inside[role]:
            return
        if role is TEACHER and not inside[STUDENT]:
            self._teacher_ends(output)
        elif role is STUDENT and not inside[TEACHER]:
            event = self._record(Kind.STUDENT_END, snapshot=False, index=_indices(args, kwargs))
            event.facts["images_alone"] = self._is_whole(module) and _one_argument(args, kwargs)
            event.facts["shape"] = next((tuple(t.shape) for t in _tensors(output)), ())
            if self._tracer is not None:
                self._tracer.mark_student(_tensors(output))
        elif role is TRAINED and id(module) in self._on_target:
            self._on_target.discard(id(module))
            self._watch_gradient(self.recording.events[-1], _tensors(output))
        elif role is TRAINED and not inside[TEACHER] and not inside[STUDENT]:
            self._predictor_ends(args, kwargs, output)

    def _is_whole(self, module: nn.Module) -> bool:
        """Return whether a module is all of a student: what calls its parts one by one may pick tokens between."""
        mine = {id(p) for p in module.parameters()}
        return any(mine == {id(p) for p in part.student.parameters()} for part in self.parts)

    def _teacher_ends(self, output: Any) -> None:
        tensors = _tensors(output)
        facts: dict[str, Any] = {"graph": any(t.requires_grad for t in tensors), "reached": False}
        facts["shape"] = tuple(tensors[0].shape) if tensors else ()
        event = self._record(Kind.TEACHER_END, snapshot=False, **facts)
        if len(self._teacher_outputs) > 64:
            self._teacher_outputs.clear()
        for tensor in tensors:
            self._teacher_outputs[id(tensor)] = weakref.ref(tensor)
        self._watch_gradient(event, tensors)
        if self._tracer is not None:
            self._tracer.leave_teacher(tensors)

    def _watch_gradient(self, event: Event, targets: list[Tensor]) -> None:
        """Note in the event's facts what a target depends on, and whether gradient flows into it."""
        for tensor in targets:
            if tensor.requires_grad and tensor.grad_fn is not None and self.recording.steps < GRAPH_STEPS:
                event.facts["leaves"] = self._depends(tensor)
                tensor.register_hook(_Reached(event.facts))

    def _depends(self, tensor: Tensor) -> dict[str, int]:
        """Return how many trained tensors of which network the target depends on through its graph."""
        found = {"teacher": 0, "trained": 0}
        for leaf in leaves(tensor):
            found["teacher" if id(leaf) in self._teacher_ids else "trained"] += 1
        return found

    def _predictor_ends(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        index = _indices(args, kwargs)
        outputs = _tensors(output)
        if not index or not outputs or not any(t.is_floating_point() and t.ndim >= 3 for t in _tensors((args, kwargs))):
            return
        event = self._record(Kind.PREDICTOR, snapshot=False, index=index)
        if outputs[0].requires_grad and self.recording.steps < GRAPH_STEPS:
            outputs[0].register_hook(_Rows(event.facts))

    def _gets_target(self, args: tuple[Any, ...]) -> bool:
        # All of its numbers: a predictor that is handed the targets beside the context need not use them.
        tensors = [tensor for tensor in _tensors(args) if tensor.is_floating_point()]
        if self._tracer is not None and tensors and self._tracer.is_target(tensors):
            return True
        known = [(tensor, self._teacher_outputs.get(id(tensor))) for tensor in tensors]
        return bool(known) and all(reference is not None and reference() is tensor for tensor, reference in known)

    def _online_on_target(self, module: nn.Module) -> None:
        if any(True for p in module.parameters() if p.requires_grad):
            event = self._record(Kind.ONLINE_ON_TARGET, snapshot=False)
            if id(module) not in self._module_names:
                trained = [p for p in module.parameters() if p.requires_grad]
                self._module_names[id(module)] = sorted(parameter_names(trained).values())
            event.facts["tensors"] = self._module_names[id(module)]

    def _random_modules(self) -> list[str]:
        """Return modules of the teacher that are random as they stand (dropout, drop-path in training mode)."""
        found = []
        for part in self.parts:
            for name, module in part.teacher.named_modules():
                rate = _drop_rate(module)
                if module.training and rate:
                    found.append(f"{plain_name(name)} ({type(module).__name__} {rate:g})")
        return found

    # ------------------------------------------------------------------ backward

    def _backward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        roots = _tensors(args[:1] or tuple(kwargs.get("tensors", ())))
        if self.recording.finished or torch._C._current_graph_task_id() != -1:
            return original(*args, **kwargs)  # (a nested pass belongs to checkpointing)
        seen: dict[str, Any] = {}
        self._guarded(self._backward_begins)(roots, seen)
        try:
            return original(*args, **kwargs)
        finally:
            self._guarded(self._backward_ends)(roots, seen)

    def _backward_begins(self, roots: list[Tensor], seen: dict[str, Any]) -> None:
        if self._window_is_over():
            return
        event = self._record(Kind.BACKWARD, cleared=self._cleared())
        seen["event"], seen["gradients"] = event, self._gradients()
        if self.recording.steps < GRAPH_STEPS:
            event.facts["criteria"] = self.criterion.watch(roots)
        if self.recording.steps in UNHELD_STEPS:
            self._unheld.backward_begins(roots)

    def _backward_ends(self, roots: list[Tensor], seen: dict[str, Any]) -> None:
        if self._gradients() != seen["gradients"] or self._leads_to_student(roots):
            self._backwards += 1
            if self.recording.steps in UNHELD_STEPS:
                self._unheld.backward_ends(self._trained_ids, self._teacher_ids)
            # In a step with a closure the step's own change comes next: look what was before it.
            self._record(Kind.BACKWARD_END, snapshot=bool(self._stepping))
        else:
            seen["event"].kind = Kind.OTHER_BACKWARD
        if self._tracer is not None:
            self._tracer.forget()

    def _gradients(self) -> dict[int, tuple[int, int]]:
        """Return which gradients the student has and how often each was written: what a backward pass changes."""
        found = ((p, p.grad) for part in self.parts for p in part.student.parameters())
        return {id(p): (id(gradient), gradient._version) for p, gradient in found if gradient is not None}

    def _leads_to_student(self, roots: list[Tensor]) -> bool:
        """Return whether the graph of a pass that left no gradient ends in the student (they were used up in hooks)."""
        return any(id(leaf) in self._trained_ids for tensor in roots for leaf in leaves(tensor))

    def _cleared(self) -> bool:
        """Return whether gradients that a backward pass left were cleared without a step."""
        if not self._backwards or not self._optimizers:
            return False
        for parameter in self.optimized():
            if id(parameter) in self._trained_ids and parameter.requires_grad:
                gradient = parameter.grad
                if gradient is not None:
                    with suspended_modes():
                        if bool((gradient != 0).any()):
                            return False
                    if gradient.numel() > 1:
                        return True
        return all(p.grad is None for p in self.optimized() if id(p) in self._trained_ids)

    def _unscale(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._guarded(self._record)(Kind.UNSCALE, snapshot=False)
        return original(*args, **kwargs)

    def _clip(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.recording.finished:
            return original(*args, **kwargs)
        before = self._gradients()
        self._guarded(self._record)(Kind.CLIP, snapshot=False)
        result = original(*args, **kwargs)
        # Which parameters were clipped is not told by the arguments: a generator can be read once only.
        self._guarded(self._clipped)(before)
        return result

    def _clipped(self, before: dict[int, tuple[int, int]]) -> None:
        event = next(event for event in reversed(self.recording.events) if event.kind is Kind.CLIP)
        event.facts["student"] = self._gradients() != before

    def _train(self, original: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = original(module, *args, **kwargs)
        if not module.training and any(module is part.student for part in self.parts):
            self._guarded(self._eval_called)()
        return result

    def _eval_called(self) -> None:
        self._record(Kind.MODE, snapshot=False, function=function())

    def _scaler_step(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        facts: dict[str, Any] = {"stepped": None}
        self._guarded(self._scaler_begins)(args[0], facts)
        before = len(self.recording.events)
        optimizer = args[1] if len(args) > 1 else kwargs.get("optimizer")
        result = original(*args, **kwargs)
        if not isinstance(optimizer, Optimizer) or self._trains_student(optimizer):
            facts["stepped"] = any(event.kind is Kind.STEP_END for event in self.recording.events[before:])
        return result  # (whether another network's optimizer stepped says nothing about the student)

    def _scaler_begins(self, scaler: Any, facts: dict[str, Any]) -> None:
        facts["scale"] = _scale(scaler)
        self._record(Kind.SCALER_STEP, snapshot=False).facts = facts

    # ------------------------------------------------------------------ the optimizer

    def _trains_student(self, optimizer: Optimizer) -> set[int]:
        """Return which parameters of the student an optimizer holds."""
        return {id(p) for group in optimizer.param_groups for p in group["params"]} & self._trained_ids

    def _mark_other_optimizer(self, optimizer: Optimizer) -> None:
        """Note that the last backward pass was for an optimizer that trains none of the student's parameters.

        Its loss may lead through the student all the same (an actor's through the critic); the gradients left
        there are cleared, and no step of the student was skipped.
        """
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if held & (self._trained_ids | self._teacher_ids):
            return
        for event in reversed(self.recording.events):
            if event.kind in (Kind.STEP, Kind.STEP_END):
                return
            if event.kind is Kind.BACKWARD:
                event.facts["for_another"] = True
                return

    def _remember(self, optimizer: Optimizer) -> None:
        """Keep an optimizer that trains the student, whenever it was made, the largest first."""
        if any(reference() is optimizer for reference in self._optimizers):
            return
        self._optimizers.append(weakref.ref(optimizer))
        sizes = {
            id(o): sum(p.numel() for g in o.param_groups for p in g["params"] if id(p) in self._trained_ids)
            for o in self.optimizers
        }
        self._optimizers.sort(key=lambda r: -sizes.get(id(r()), 0))
        # By name as well: at the end of the function that trains, the optimizer itself is gone.
        self.recording.optimizers += [type(optimizer).__name__]

    def step_begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Hook of an optimizer's step; also called by discovery, for the step at which it found the pair.

        One optimizer step of the student is a round: optimizers of different parts of it that step one after the
        other belong together, and a part that steps again begins the next round.
        """
        self._unheld.holds(optimizer)
        held = self._trains_student(optimizer)
        if not held:
            self._mark_other_optimizer(optimizer)
            if self.on_stranger is not None:
                self.on_stranger(optimizer, args, kwargs)
            return
        if self._stepping and self._stepping[0] == id(optimizer) and self._at_work():
            self._stepping.append(id(optimizer))  # the step of a parent class, called by its child
            return
        if self._stepping and id(optimizer) not in self._stepping and _runs(self._stepping[0]):
            return  # the optimizer inside another one (SAM), whose step has begun
        self._stepping = [id(optimizer)]  # (an earlier step that is still open ended with an error)
        self._inside = dict.fromkeys(self._inside, 0)
        continues = bool(self._round) and not held & self._round
        if not continues and self._window_is_over():
            return
        self._remember(optimizer)
        self._round = self._round | held if continues else held
        self._refresh()
        self._adopt_replacement()
        event = self._record(Kind.STEP, cleared=self._cleared())
        if continues:
            event.facts["continues"] = True
        if self.recording.steps <= LOCATED_STEPS:
            event.facts["stack"] = stack()
        event.facts.update(self._optimizer_facts(optimizer))

    def _at_work(self) -> bool:
        return bool(self.recording.events) and self.recording.events[-1].kind in _OF_THE_OPTIMIZER

    @property
    def in_step(self) -> bool:
        """Whether an optimizer is at work itself (not in a closure that computes its gradients)."""
        return bool(self._stepping) and self._at_work()

    @property
    def in_teacher(self) -> bool:
        """Whether the teacher's forward is at work."""
        return self._inside[TEACHER] > 0

    def _refresh(self) -> None:
        """Notice a teacher whose parameters are other objects than before (assigned anew)."""
        if any(isinstance(part.teacher, Shadow) for part in self.parts):
            return  # new tensors in each update are its way
        now = {id(p) for part in self.parts for p in part.teacher.parameters()}
        if now != self._teacher_ids:
            self._record(Kind.REPLACED, snapshot=False, name="its parameters")
            self.pair()
            self.last_snapshot = None

    def _optimizer_facts(self, optimizer: Optimizer) -> dict[str, Any]:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        teachers = [p for part in self.parts for p in part.teacher.parameters()]
        return {
            "teacher_held": sum(id(p) in held for p in teachers),
            "teacher_gradients": sum(p.grad is not None for p in teachers),
            "teacher_trainable": sum(p.requires_grad for p in teachers),
            "teacher_tensors": len(teachers),
            "found_inf": _found_inf(optimizer),
            "aliased": self._aliased(),
        }

    def _aliased(self) -> list[str]:
        """Return tensors of the teacher whose memory overlaps with the student's."""
        mine: dict[int, list[tuple[int, int]]] = {}
        for address, start, stop in storages(list(self._parameters(teacher=False).values())):
            mine.setdefault(address, []).append((start, stop))
        return [
            name
            for name, tensor in self._parameters(teacher=True).items()
            for address, start, stop in storages([tensor])
            if any(start < theirs_stop and theirs < stop for theirs, theirs_stop in mine.get(address, ()))
        ]

    def _step_ends(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._stepping or self._stepping[-1] != id(optimizer):
            return
        self._stepping.pop()
        if self.recording.finished or self._stepping:
            return
        self._snapshots_since_step = self._repeated = 0
        begin = next((event for event in reversed(self.recording.events) if event.kind is Kind.STEP), None)
        end = self._record(Kind.STEP_END)
        if begin is not None and begin.facts.get("continues"):
            end.facts["continues"] = True
            return
        self.recording.steps += 1
        self._backwards = 0
        if self.recording.steps in (self.steps // 2, self.steps):
            replicas.publish(self, self.recording.steps)
            self.published = self.recording.steps
        self._trace_next()

    def _window_is_over(self) -> bool:
        """Close after the first event that follows the last step, so that its update is seen."""
        if self.recording.finished:
            return True
        if self.recording.steps < self.steps:
            return False
        self._record(Kind.END, cut=True)
        self._close()
        return True

    # ------------------------------------------------------------------ tracing

    def _trace_next(self) -> None:
        step = self.recording.steps
        if step in self._trace_steps and self._tracer is None and not self.compiled():
            self._tracer = Tracer(self, self.recording.trace)
            self._tracer.events = len(self.recording.events)
            self._tracer.begin(step)
        elif self._tracer is not None and step not in self._trace_steps:
            self._stop_tracing()

    def _stop_tracing(self) -> None:
        if self._tracer is not None:
            self._tracer.end(self.recording.steps)
            self._tracer = None


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


def _runs(optimizer: int) -> bool:
    """Return whether a method of this optimizer (by id) is at work: a step that ended with an error tells no one."""
    frame = sys._getframe(1)
    while frame is not None:
        if id(local_variables(frame).get("self")) == optimizer:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _drop_rate(module: nn.Module) -> float:
    """Return the rate of a dropout or drop-path module, 0 for others."""
    if "drop" not in type(module).__name__.lower():
        return 0.0
    rates = [vars(module).get(name) for name in ("p", "drop_prob", "drop_path", "drop_rate", "rate", "prob")]
    return next((float(rate) for rate in rates if isinstance(rate, (int, float)) and rate > 0), 0.0)


def _identity(inputs: list[Tensor]) -> tuple[int, tuple[int, ...]] | None:
    """Return what tells whether two forwards got the very same images."""
    first = next((tensor for tensor in inputs if tensor.is_floating_point()), None)
    return (first.data_ptr(), tuple(first.shape)) if first is not None else None


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        # Inside torch.vmap and torch.func a tensor is a view of many, with no storage to look at.
        return [] if torch._C._functorch.is_functorch_wrapped_tensor(value) else [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _tensors(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [tensor for name in value.__dataclass_fields__ for tensor in _tensors(getattr(value, name))]
    return []


def _one_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    given = [value for value in (*args, *kwargs.values()) if value is not None]
    return len(given) == 1 and isinstance(given[0], Tensor)


def _indices(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return integer tensors among the arguments: positions of tokens ``[..., T]``, or an empty list."""
    found = [t for t in _tensors((args, kwargs)) if t.dtype in (torch.int32, torch.int64) and t.ndim >= 2]
    with suspended_modes():
        return [t.detach().to("cpu", copy=True) for t in found]


def _same_kind(module: nn.Module, teacher: nn.Module) -> bool:
    if type(module) is not type(teacher) or module is teacher:
        return False
    shapes = [{plain_name(n): p.shape for n, p in m.named_parameters()} for m in (module, teacher)]
    return bool(shapes[0]) and shapes[0] == shapes[1]


def _same_parameters(module: nn.Module, other: nn.Module) -> bool:
    return {id(p) for p in module.parameters()} <= {id(p) for p in other.parameters()}


def _elsewhere() -> bool:
    """Return whether a compiler traces us, or a backward pass recomputes a forward (checkpointing)."""
    return torch.compiler.is_compiling() or torch._C._current_graph_task_id() != -1


def _dynamo_in_use() -> bool:
    dynamo = sys.modules.get("torch._dynamo.utils")
    counters = getattr(dynamo, "counters", None) if dynamo is not None else None
    return bool(counters and counters.get("stats"))


def _scale(scaler: Any) -> float:
    return float(scaler.get_scale()) if scaler.is_enabled() else 1.0


def _found_inf(optimizer: Optimizer) -> bool:
    found = getattr(optimizer, "found_inf", None)
    return bool(found is not None and float(found) > 0)
