"""Steps of the optimizers that train the student, counted in rounds."""

import sys
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from hjepa.audit.observe import replicas
from hjepa.audit.observe.backward_passes import BackwardPasses
from hjepa.audit.observe.event_log import LOCATED_STEPS
from hjepa.audit.observe.forward_passes import ForwardPasses
from hjepa.audit.observe.program.call_site import local_variables, stack
from hjepa.audit.observe.recording import Kind
from hjepa.audit.observe.roles import Roles
from hjepa.audit.observe.window import Window


class OptimizerSteps:
    """Hooks before and after the step of every optimizer.

    One optimizer step of the student is a round: optimizers of different parts of it that step one after the
    other belong together, and a part that steps again begins the next round.
    """

    def __init__(self, window: Window, roles: Roles, forwards: ForwardPasses, backwards: BackwardPasses) -> None:
        self._window, self._roles = window, roles
        self._forwards, self._backwards = forwards, backwards
        self._log, self._networks = window.log, window.log.networks
        self._round: set[int] = set()  # parameters of the student that this round of steps has trained
        self.on_stranger: Callable[[Optimizer, Any, Any], None] | None = None  # steps, and does not train the student
        self.published: int | None = None  # step of the last digest that other processes can read

    def begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Note that an optimizer begins its step."""
        self._window.unheld.holds(optimizer)
        held = self._networks.trained_by(optimizer)
        if not held:
            self._mark_other_optimizer(optimizer)
            if self.on_stranger is not None:
                self.on_stranger(optimizer, args, kwargs)
            return
        stepping = self._log.stepping
        if stepping and stepping[0] == id(optimizer) and self._log.at_work:
            stepping.append(id(optimizer))  # the step of a parent class, called by its child
            return
        if stepping and id(optimizer) not in stepping and _runs(stepping[0]):
            return  # the optimizer inside another one (SAM), whose step has begun
        self._log.stepping = [id(optimizer)]  # (an earlier step that is still open ended with an error)
        self._log.inside = dict.fromkeys(self._log.inside, 0)
        continues = bool(self._round) and not held & self._round
        if not continues and self._window.is_over():
            return
        if self._networks.remember(optimizer):
            # By name as well: at the end of the function that trains, the optimizer itself is gone.
            self._log.recording.optimizers += [type(optimizer).__name__]
        self._round = self._round | held if continues else held
        self._roles.notice_new_parameters()
        self._roles.adopt_replacement()
        event = self._log.record(Kind.STEP, cleared=self._backwards.cleared())
        if continues:
            event.facts["continues"] = True
        if self._log.recording.steps <= LOCATED_STEPS:
            event.facts["stack"] = stack()
        event.facts.update(self._networks.facts_at_step(optimizer))

    def ends(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Note that an optimizer has made its step."""
        stepping, recording = self._log.stepping, self._log.recording
        if not stepping or stepping[-1] != id(optimizer):
            return
        stepping.pop()
        if recording.finished or stepping:
            return
        self._log.step_is_over()
        self._forwards.step_is_over()
        begin = next((event for event in reversed(recording.events) if event.kind is Kind.STEP), None)
        end = self._log.record(Kind.STEP_END)
        if begin is not None and begin.facts.get("continues"):
            end.facts["continues"] = True
            return
        recording.steps += 1
        self._log.backwards = 0
        if recording.steps in (self._window.steps // 2, self._window.steps):
            self._publish(recording.steps)
        self._window.trace_next()

    def _publish(self, step: int) -> None:
        snapshot = self._log.last_snapshot
        if snapshot is not None and not self._networks.sharded:
            replicas.publish(snapshot.teacher, step)
        self.published = step

    def _mark_other_optimizer(self, optimizer: Optimizer) -> None:
        """Note that the last backward pass was for an optimizer that trains none of the student's parameters.

        Its loss may lead through the student all the same (an actor's through the critic); the gradients left
        there are cleared, and no step of the student was skipped.
        """
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if held & (self._networks.student_ids | self._networks.teacher_ids):
            return
        for event in reversed(self._log.recording.events):
            if event.kind in (Kind.STEP, Kind.STEP_END):
                return
            if event.kind is Kind.BACKWARD:
                event.facts["for_another"] = True
                return


def _runs(optimizer: int) -> bool:
    """Return whether a method of this optimizer (by id) is at work: a step that ended with an error tells no one."""
    frame = sys._getframe(1)
    while frame is not None:
        if id(local_variables(frame).get("self")) == optimizer:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
