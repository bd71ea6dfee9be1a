"""From the loss to the gradients: backward passes, and what is done to gradients before the step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hjepa.audit.observe.graph.gradients import leaves
from hjepa.audit.observe.graph.loss_graph import Criterion
from hjepa.audit.observe.hooks.dispatch_modes import suspended_modes
from hjepa.audit.observe.program.tensor_pairs import tensors_in
from hjepa.audit.observe.recording import Kind
from hjepa.audit.observe.window import Window

GRAPH_STEPS = 4  # steps in which the graph of a loss, of a target and of a prediction is looked into
UNHELD_STEPS = (1, 2)  # steps in which the loss is searched for parameters that no optimizer holds


class BackwardPasses:
    """Stands in for the functions of torch that make gradients, scale and clip them."""

    def __init__(self, window: Window) -> None:
        self._window, self._unheld = window, window.unheld
        self._log, self._networks = window.log, window.log.networks
        self._criterion = Criterion()

    def watch_backward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stand in for ``torch.autograd.backward``."""
        roots = tensors_in(args[:1] or tuple(kwargs.get("tensors", ())))
        if self._log.recording.finished or torch._C._current_graph_task_id() != -1:
            return original(*args, **kwargs)  # (a nested pass belongs to checkpointing)
        seen: dict[str, Any] = {}
        self._window.guarded(self._begins)(roots, seen)
        try:
            return original(*args, **kwargs)
        finally:
            self._window.guarded(self._ends)(roots, seen)

    def _begins(self, roots: list[Tensor], seen: dict[str, Any]) -> None:
        if self._window.is_over():
            return
        event = self._log.record(Kind.BACKWARD, cleared=self.cleared())
        seen["event"], seen["gradients"] = event, self._networks.gradients()
        if self._log.recording.steps < GRAPH_STEPS:
            event.facts["criteria"] = self._criterion.watch(roots)
            self._window.terms.look(roots, self._networks.student_ids)
        if self._log.recording.steps in UNHELD_STEPS:
            self._unheld.backward_begins(roots)

    def _ends(self, roots: list[Tensor], seen: dict[str, Any]) -> None:
        if self._networks.gradients() != seen["gradients"] or self._leads_to_student(roots):
            self._log.backwards += 1
            if self._log.recording.steps in UNHELD_STEPS:
                self._unheld.backward_ends(self._networks.student_ids, self._networks.teacher_ids)
            # In a step with a closure the step's own change comes next: sample what was before it.
            self._log.record(Kind.BACKWARD_END, snapshot=bool(self._log.stepping))
        else:
            seen["event"].kind = Kind.OTHER_BACKWARD
        if self._window.tracer is not None:
            self._window.tracer.forget()

    def _leads_to_student(self, roots: list[Tensor]) -> bool:
        """Return whether the graph of a pass that left no gradient ends in the student (they were used up in hooks)."""
        return any(id(leaf) in self._networks.student_ids for tensor in roots for leaf in leaves(tensor))

    def cleared(self) -> bool:
        """Return whether gradients that a backward pass left were cleared without a step."""
        if not self._log.backwards or not self._networks.has_optimizers:
            return False
        mine = self._networks.student_ids
        for parameter in self._networks.optimized():
            if id(parameter) in mine and parameter.requires_grad:
                gradient = parameter.grad
                if gradient is not None:
                    with suspended_modes():
                        if bool((gradient != 0).any()):
                            return False
                    if gradient.numel() > 1:
                        return True
        return all(p.grad is None for p in self._networks.optimized() if id(p) in mine)

    # ------------------------------------------------------------------ between backward pass and step

    def watch_unscale(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stand in for ``GradScaler.unscale_``."""
        self._window.guarded(self._log.record)(Kind.UNSCALE, snapshot=False)
        return original(*args, **kwargs)

    def watch_clip(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stand in for the functions that clip gradients."""
        if self._log.recording.finished:
            return original(*args, **kwargs)
        before = self._networks.gradients()
        self._window.guarded(self._log.record)(Kind.CLIP, snapshot=False)
        result = original(*args, **kwargs)
        # Which parameters were clipped is not told by the arguments: a generator can be read once only.
        self._window.guarded(self._clipped)(before)
        return result

    def _clipped(self, before: dict[int, tuple[int, int]]) -> None:
        event = next(event for event in reversed(self._log.recording.events) if event.kind is Kind.CLIP)
        event.facts["student"] = self._networks.gradients() != before

    def watch_scaler_step(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stand in for ``GradScaler.step``: note whether it let the optimizer step."""
        facts: dict[str, Any] = {"stepped": None}
        self._window.guarded(self._scaler_begins)(args[0], facts)
        before = len(self._log.recording.events)
        optimizer = args[1] if len(args) > 1 else kwargs.get("optimizer")
        result = original(*args, **kwargs)
        if not isinstance(optimizer, Optimizer) or self._networks.trained_by(optimizer):
            facts["stepped"] = any(event.kind is Kind.STEP_END for event in self._log.recording.events[before:])
        return result  # (whether another network's optimizer stepped says nothing about the student)

    def _scaler_begins(self, scaler: Any, facts: dict[str, Any]) -> None:
        facts["scale"] = _scale(scaler)
        self._log.record(Kind.SCALER_STEP, snapshot=False).facts = facts


def _scale(scaler: Any) -> float:
    return float(scaler.get_scale()) if scaler.is_enabled() else 1.0
