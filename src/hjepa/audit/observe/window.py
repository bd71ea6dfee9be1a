"""The optimizer steps that are watched: what is attached to torch meanwhile, and how it comes off again."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hjepa.audit.observe.event_log import EventLog
from hjepa.audit.observe.graph.gradients import UnheldParameters
from hjepa.audit.observe.graph.loss_terms import LossTerms
from hjepa.audit.observe.hooks.dispatch_modes import suspended_modes
from hjepa.audit.observe.recording import Kind
from hjepa.audit.observe.tracing import Tracer


class Window:
    """Opens with ``attached``, guards every hook of ours, and closes once: at its last step, at an error, or early."""

    def __init__(
        self, log: EventLog, *, steps: int, trace: Sequence[int] = (), on_done: Callable[[], None] | None = None
    ) -> None:
        self.log, self.steps = log, steps
        self.attached = contextlib.ExitStack()
        self.unheld = UnheldParameters()
        self.terms = LossTerms()
        self.tracer: Tracer | None = None
        self._trace_steps = frozenset(trace)
        self._on_done = on_done

    def guarded(self, hook: Callable[..., Any], *, apart: bool = True) -> Callable[..., None]:
        """Return the hook so that an error of ours ends the audit, never the program that is audited.

        ``apart`` from the program's modes; not the hooks of every module's forward, which compute nothing but
        snapshots, and those keep themselves apart.
        """

        def guarded(*args: Any, **kwargs: Any) -> None:
            if torch.compiler.is_compiling() or self.log.recording.finished:
                return
            try:
                if self.tracer is not None and self.tracer.error is not None:
                    raise self.tracer.error
                with suspended_modes() if apart else torch._C.DisableTorchFunction():
                    hook(*args, **kwargs)
            except Exception as error:  # noqa: BLE001
                self.failed(error)

        return guarded

    # ------------------------------------------------------------------ the end

    def is_over(self) -> bool:
        """Close after the first event that follows the last step, so that its update is seen."""
        recording = self.log.recording
        if recording.finished:
            return True
        if recording.steps < self.steps:
            return False
        self.log.record(Kind.END, cut=True)
        self._close()
        return True

    def failed(self, error: Exception) -> None:
        """End the audit after an error of ours; the report says so."""
        recording = self.log.recording
        recording.problems.append(f"everything after an internal error of the audit ({type(error).__name__}: {error})")
        if not recording.finished:
            self._close()

    def stop(self) -> None:
        """Take a last snapshot and close; the second call does nothing."""
        if not self.log.recording.finished:
            if self.log.last_snapshot is not None or self.log.recording.events:
                self.log.record(Kind.END)
            self._close()

    def abandon(self) -> None:
        """Close without a word: another pair is watched."""
        self._on_done = None
        self._detach()

    def _close(self) -> None:
        self._detach()
        self._set_probes_apart()
        self.log.recording.unheld = self.unheld.settled() if self.unheld.looked else None
        if self._on_done is not None:
            with suspended_modes():
                self._on_done()

    def _set_probes_apart(self) -> None:
        """What is trained on the teacher's features by a term of its own, with no way to the student, is no target."""
        for event in self.log.recording.events:
            if event.kind is Kind.ONLINE_ON_TARGET and self.terms.apart(event.facts["parameters"]):
                event.kind = Kind.PROBE

    def _detach(self) -> None:
        self.log.recording.finished = True
        self._stop_tracing()
        self.attached.close()

    # ------------------------------------------------------------------ tracing

    def trace_next(self) -> None:
        """Begin to trace if the next step is one to be traced, end it if not."""
        step = self.log.recording.steps
        if step in self._trace_steps and self.tracer is None and not self.log.networks.compiled():
            self.tracer = Tracer(self.log, self.terms)
            self.tracer.begin(step)
        elif self.tracer is not None and step not in self._trace_steps:
            self._stop_tracing()

    def _stop_tracing(self) -> None:
        if self.tracer is not None:
            self.tracer.end(self.log.recording.steps)
            self.tracer = None
