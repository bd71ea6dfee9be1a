"""Watches a training loop from outside: hooks, and samples of the weights at chosen instants.

Nothing here changes what it watches: no random number is drawn, no graph is kept, no flag is set, no
collective is called.  Hooks are global ones, so modules, their copies and their pickles stay as they are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from hjepa.audit.observe import replicas
from hjepa.audit.observe.backward_passes import BackwardPasses
from hjepa.audit.observe.event_log import EventLog
from hjepa.audit.observe.forward_passes import ForwardPasses
from hjepa.audit.observe.hooks.interception import intercept
from hjepa.audit.observe.hooks.step_hooks import at_work, remove_if_safe
from hjepa.audit.observe.networks import Networks
from hjepa.audit.observe.optimizer_steps import OptimizerSteps
from hjepa.audit.observe.program.tensor_pairs import Part
from hjepa.audit.observe.recording import Recording
from hjepa.audit.observe.roles import Roles
from hjepa.audit.observe.window import Window


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
        self.networks = Networks(parts, optimizers)
        self._log = EventLog(self.networks)
        self._window = Window(self._log, steps=steps, trace=trace, on_done=on_done)
        roles = Roles(self._log)
        self._backwards = BackwardPasses(self._window)
        self._forwards = ForwardPasses(self._window, roles, self._backwards)
        self._steps = OptimizerSteps(self._window, roles, self._forwards, self._backwards)
        self.hooks: list[RemovableHandle] = []  # of optimizers

    @property
    def recording(self) -> Recording:
        """What was seen so far."""
        return self._log.recording

    # ------------------------------------------------------------------ start and stop

    def start(self) -> None:
        """Register everything."""
        window, backwards, forwards = self._window, self._backwards, self._forwards
        if not self._called:
            self.hooks += [
                register_optimizer_step_pre_hook(self._hooked(self.before_step)),
                register_optimizer_step_post_hook(self._hooked(self.after_step)),
            ]
        attach = window.attached.callback
        for hook in self.hooks:
            attach(remove_if_safe, hook)
        begins, ends = (window.guarded(hook, apart=False) for hook in (forwards.begins, forwards.ends))
        pre = nn.modules.module.register_module_forward_pre_hook(begins)
        post = nn.modules.module.register_module_forward_hook(ends, with_kwargs=True)
        attach(pre.remove)
        attach(post.remove)
        # The handle forgets this entry, and torch.compile would warn of a hook for the rest of the process.
        attach(lambda: nn.modules.module._global_forward_hooks_with_kwargs.pop(post.id, None))
        if self.networks.compiled():
            self.recording.problems.append("what happens inside forward passes, because code is compiled")
        attach(intercept(torch.autograd, "backward", backwards.watch_backward))
        attach(intercept(torch.amp.GradScaler, "unscale_", backwards.watch_unscale))
        attach(intercept(torch.amp.GradScaler, "step", backwards.watch_scaler_step))
        attach(intercept(nn.Module, "train", forwards.watch_mode))
        for name in ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_"):
            for owner in (torch.nn.utils, torch.nn.utils.clip_grad):
                if hasattr(owner, name):
                    attach(intercept(owner, name, backwards.watch_clip))

    @staticmethod
    def _hooked(hook: Callable[..., None]) -> Callable[..., None]:
        def hooked(*args: Any) -> None:
            with at_work():
                hook(*args)

        return hooked

    def stop(self) -> None:
        """Take a last snapshot and remove everything; the second call does nothing."""
        self._window.stop()
        for hook in self.hooks:
            hook.remove()

    def abandon(self) -> None:
        """Remove everything without a word: another pair is watched."""
        self._window.abandon()

    def failed(self, error: Exception) -> None:
        """End the audit after an error of ours; the report says so."""
        self._window.failed(error)

    # ------------------------------------------------------------------ steps

    def before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Hook before an optimizer's step."""
        self._window.guarded(self._steps.begins)(optimizer, args, kwargs)

    def after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Hook after an optimizer's step."""
        self._window.guarded(self._steps.ends)(optimizer, args, kwargs)

    def step_begins(
        self, optimizer: Optimizer, args: Any, kwargs: Any, on_stranger: Callable[[Optimizer, Any, Any], None] | None
    ) -> None:
        """Begin with the step at which the pair was found; ``on_stranger`` is told of steps of other optimizers."""
        self._steps.begins(optimizer, args, kwargs)
        self._steps.on_stranger = on_stranger

    # ------------------------------------------------------------------ what was seen

    def teacher_moved(self) -> bool:
        """Return whether the teacher has changed since the first snapshot."""
        first = next((event.snapshot for event in self.recording.events if event.snapshot is not None), None)
        now = self.networks.teacher_sample()
        return first is None or now.shape != first.teacher.shape or not torch.equal(now, first.teacher)

    def replicas(self) -> dict[int, str] | None:
        """Return the digests of the teachers of all processes, on the first one, where they can be had."""
        return None if self.networks.sharded else replicas.compare(self._steps.published)
