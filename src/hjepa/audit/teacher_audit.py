"""A complete audit: watch, measure, judge, report."""

import contextlib
import datetime
import gc
import platform
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from hjepa.audit import specs
from hjepa.audit.judge.conclusion import Conclusion, conclude
from hjepa.audit.judge.context import AuditContext
from hjepa.audit.judge.findings import Measured, Subject, Verdict, verdict_of
from hjepa.audit.measure.measurement import Measurement, measure
from hjepa.audit.observe import replicas
from hjepa.audit.observe.hooks.dispatch_modes import suspended_modes
from hjepa.audit.observe.hooks.step_hooks import at_work, remove_if_safe
from hjepa.audit.observe.observer import Observer
from hjepa.audit.observe.program.discovery import Found, averager_of, discover
from hjepa.audit.observe.program.program_names import NotFound
from hjepa.audit.observe.program.tensor_pairs import Part, unwrap
from hjepa.audit.specs import Spec
from hjepa.audit.tell.phrases import count
from hjepa.audit.tell.report import Report

STEPS = 20  # optimizer steps watched
TRACED = (2,)  # of these, followed operation by operation: the third, when everything has settled
DEEP = (1, 2, 3)
ATTEMPTS = 5  # optimizer steps at which discovery looks for a pair


class TeacherAudit:
    """Watches a training loop and checks whether its teacher follows a specification.

    ``student`` and ``teacher`` are modules, lists of modules that belong together (backbone and projector,
    in the same order), or names in the running program; without them, the pair is detected at the first
    optimizer steps. ``optimizer`` is optional. ``spec`` comes from ``hjepa.audit.specs`` (by default no
    momentum is prescribed and the closest published methods are reported). ``steps`` is the number of
    optimizer steps to watch; ``deep`` traces three of them. ``start_step`` is the step of the schedule at
    which a resumed run continues.

    Raises ``ValueError`` for arguments that do not fit together.
    """

    def __init__(
        self,
        student: nn.Module | Sequence[nn.Module] | str | None = None,
        teacher: nn.Module | Sequence[nn.Module] | str | None = None,
        optimizer: Optimizer | None = None,
        spec: Spec | str | None = None,
        *,
        steps: int = STEPS,
        deep: bool = False,
        trace: bool = True,
        start_step: int = 0,
        on_done: Callable[[], None] | None = None,
        script: str = "",
    ) -> None:
        if steps < 2:
            raise ValueError(f"steps = {steps}: watch at least 2 optimizer steps")
        self.spec = specs.auto() if spec is None else specs.named(spec) if isinstance(spec, str) else spec
        self.steps, self.start_step, self.script = steps, start_step, script
        self._on_done = on_done
        self._trace: tuple[int, ...] = () if not trace else DEEP if deep else TRACED
        self._student, self._teacher, self._optimizer = student, teacher, optimizer
        self._hooks: list[RemovableHandle] = []  # of optimizers, from the search for the pair to the end
        self._searching = True
        self._observer: Observer | None = None
        self._found = Found()
        self._attempts = 0
        self._stepped: dict[int, int] = {}  # steps that optimizers took before the pair was found
        self._strangers = 0  # steps of optimizers that do not train the student while its teacher stands still
        self.problem = ""
        self.interrupted = ""  # how the program ended, if not well
        self.children: list[str] = []  # functions that child processes ran, in which nothing was seen
        self._replicas: dict[int, str] | None = None
        self._final: Report | None = None

    # ------------------------------------------------------------------ watching

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start watching."""
        if (self._student is None) != (self._teacher is None) and not isinstance(self._student or self._teacher, str):
            raise ValueError("only one of student and teacher is given as a module: give both or neither")
        if isinstance(self._student, str) != isinstance(self._teacher, str) and None not in (
            self._student,
            self._teacher,
        ):
            raise ValueError("give both student and teacher as names, or both as modules")
        if self._student is None or self._teacher is None or isinstance(self._student, str):
            self._hooks = [
                register_optimizer_step_pre_hook(self._before_step),
                register_optimizer_step_post_hook(self._after_step),
            ]
            return
        students, teachers = _modules(self._student), _modules(self._teacher)
        if len(students) != len(teachers):
            raise ValueError(
                f"{len(students)} student modules but {len(teachers)} teacher modules: give one teacher per student"
            )
        cores = [(unwrap(mine), unwrap(other)) for mine, other in zip(students, teachers, strict=True)]
        names = [f"{n}" for n in range(len(cores))] if len(cores) > 1 else [""]
        parts = [Part(mine[0], other[0], name) for (mine, other), name in zip(cores, names, strict=True)]
        taken = sorted({wrapper for pair in cores for _, wrappers in pair for wrapper in wrappers})
        shown = ", ".join(type(part.student).__name__ for part in parts)
        self._found = Found(
            parts, shown, ", ".join(type(part.teacher).__name__ for part in parts), taken, "passed by the caller"
        )
        self._watch(parts, [self._optimizer] if self._optimizer is not None else [])
        self._student = self._teacher = self._optimizer = None

    def stop(self) -> None:
        """Stop watching; further calls do nothing."""
        if self._observer is not None:
            self._observer.stop()
        for hook in self._hooks:
            hook.remove()

    def forget(self) -> None:
        """Stop watching without a report: in a process that was forked and has an audit of its own."""
        self._give_up()
        for hook in self._hooks:
            hook.remove()
        if self._observer is not None:
            self._observer.abandon()
        self._observer = None

    @property
    def finished(self) -> bool:
        """Whether all steps have been watched."""
        return self._final is not None

    def _watch(self, parts: list[Part], optimizers: list[Optimizer]) -> None:
        self._observer = Observer(
            parts,
            optimizers=optimizers,
            steps=self.steps,
            trace=self._trace,
            on_done=self._observed,
            called=bool(self._hooks),
        )
        missed = max((self._stepped.get(id(optimizer), 0) for optimizer in optimizers), default=0)
        self._observer.recording.from_start, self._observer.recording.missed = not missed, missed
        self._observer.start()

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        with at_work():
            if self._observer is not None:
                self._observer.before_step(optimizer, args, kwargs)
            elif self._searching and self._final is None:
                self._look_for_pair(optimizer, args, kwargs)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._observer is not None:
            with at_work():
                self._observer.after_step(optimizer, args, kwargs)

    def _look_for_pair(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Find the pair at an optimizer step, then watch; this step is the first event."""
        if self._optimizer is not None and optimizer is not self._optimizer:
            return
        try:
            with suspended_modes():
                self._look(optimizer, args, kwargs)
        except NotFound as error:
            self.problem = str(error)
            self._give_up()
        except Exception as error:  # noqa: BLE001  the audited program must not suffer
            self.problem = f"the search for the teacher failed with an internal error: {type(error).__name__}: {error}"
            self._give_up()
            if self._observer is not None:
                self._observer.failed(error)

    def _look(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        found = discover(optimizer, _name(self._student), _name(self._teacher))
        self._found = found
        self.problem = found.problem
        if not found.parts:
            self._attempts += 1
            self._count_step(optimizer)
            if self._attempts >= ATTEMPTS:
                self._give_up()  # the program goes on as if we were not there
            return
        self._watch(found.parts, [optimizer])
        if self._observer is not None:
            searched = self._student is None and self._teacher is None
            self._observer.step_begins(optimizer, args, kwargs, self._look_again if searched else None)

    def _count_step(self, optimizer: Optimizer) -> None:
        self._stepped[id(optimizer)] = self._stepped.get(id(optimizer), 0) + 1

    def _look_again(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Give up a pair whose optimizer is gone, or idle, before its teacher ever moved, for one that is trained now.

        The first to train may be a copy that is fine-tuned for evaluation and thrown away.
        """
        observer = self._observer
        if observer is None or self._strangers >= 2 * ATTEMPTS:
            return
        if observer.teacher_moved():
            self._strangers = 0
            return
        self._strangers += 1
        self._count_step(optimizer)
        gc.collect()
        if observer.networks.optimizers and self._strangers < ATTEMPTS:
            return
        found = discover(optimizer)
        if found.parts and found.parts[0].student is not observer.networks.parts[0].student:
            observer.abandon()
            self._found = found
            self._stepped[id(optimizer)] -= 1
            self._watch(found.parts, [optimizer])
            assert self._observer is not None
            self._observer.step_begins(optimizer, args, kwargs, self._look_again)

    def _give_up(self) -> None:
        self._searching = False
        for hook in self._hooks:
            remove_if_safe(hook)

    def _observed(self) -> None:
        if self._observer is not None:
            self._replicas = self._observer.replicas()
            self._final = self.report()
            self._hooks += self._observer.hooks
            self._give_up()
            self._observer = None  # it holds the networks; the program may want their memory back
            self._found.parts = []
        if self._on_done is not None:
            self._on_done()

    # ------------------------------------------------------------------ reporting

    def report(self) -> Report:
        """Return the report; may be called at any time after the first steps."""
        if self._final is not None:
            return self._final
        with suspended_modes():
            return self._report()

    def _report(self) -> Report:
        observer = self._observer
        if observer is None or not observer.recording.steps:
            return self._nothing()
        recording, tensors = observer.recording, observer.networks.tensors
        measured = measure(recording, tensors.pairs)
        audit = AuditContext(
            recording, measured, self.spec, tensors, observer.networks.parts, self.start_step,
            replicas=self._replicas, processes=replicas.world()[1], averager=averager_of(observer.networks.parts),
        )  # fmt: skip
        concluded = conclude(audit)
        verdict, reason = _verdict(measured, concluded)
        return Report(
            verdict=verdict,
            spec=concluded.spec.name,
            spec_source=concluded.spec.source,
            nearest=concluded.nearest,
            steps=recording.steps,
            subject=self._subject(observer),
            measured=concluded.measured,
            findings=concluded.findings,
            timeline=concluded.timeline,
            date=_now(),
            versions=_versions(),
            reason=reason,
            interrupted=self._how_it_ended(recording.steps),
        )

    def _how_it_ended(self, steps: int) -> str:
        if not self.interrupted:
            return ""
        return f"{self.interrupted} after {count(steps, 'optimizer step')}; {self.steps} were to be watched"

    def _subject(self, observer: Observer) -> Subject:
        pairs = observer.networks.tensors.pairs
        return Subject(
            student=self._found.student,
            teacher=self._found.teacher,
            optimizer=", ".join(observer.recording.optimizers),
            script=self.script,
            parameters=sum(pair.teacher.numel() for pair in pairs),
            tensors=len(pairs),
            sampled=pairs[-1].stop if pairs else 0,
            wrappers=self._found.wrappers,
            discovered=self._found.how,
        )

    def _nothing(self) -> Report:
        """Return the report of an audit that saw nothing to audit."""
        if self.problem:
            reason = self.problem
        elif self._found.candidates:
            reason = "several pairs are possible; choose one with --student NAME --teacher NAME"
        elif self._found.student:
            reason = "the student's optimizer took no step: train for at least 2 steps during the audit"
        elif self._attempts:
            reason = (
                "no teacher was found: no untrained module has parameters of the same names and shapes as a trained "
                "module; if there is a teacher, name both with --student NAME --teacher NAME"
            )
        elif self.children:
            reason = (
                f"the script started {count(len(self.children), 'child process')} ({', '.join(self.children[:3])}) but "
                "no torch optimizer took a step in any of these processes: use TeacherAudit inside the training "
                "function, or start the processes with torchrun ... -m hjepa.audit"
            )
        else:
            reason = (
                "no torch optimizer took a step in this process; if the script starts its training as another program, "
                "audit that program, or use TeacherAudit inside it"
            )
        subject = Subject(script=self.script, candidates=self._found.candidates)
        return Report(
            verdict=Verdict.INCONCLUSIVE, spec=self.spec.name, spec_source=self.spec.source, nearest=(), steps=0,
            subject=subject, measured=Measured(), findings=(), timeline=(), date=_now(), versions=_versions(),
            reason=reason, interrupted=self._how_it_ended(0),
        )  # fmt: skip


def assert_conforms(
    student: nn.Module,
    teacher: nn.Module,
    optimizer: Optimizer | None = None,
    *,
    spec: Spec | str | None = None,
    **how: Any,
) -> TeacherAudit:
    """Return an audit for a ``with`` statement that raises at its end unless the loop conforms.

    For test suites. Raises ``ConformanceError`` (an AssertionError) with the list of failed rules, or if too
    little was observed for a verdict.
    """
    return _Asserting(student, teacher, optimizer, spec, **how)


class _Asserting(TeacherAudit):
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is None:
            self.report().raise_for_failures()


def _modules(value: nn.Module | Sequence[nn.Module] | str) -> list[nn.Module]:
    if isinstance(value, nn.Module):
        return [value]
    if isinstance(value, str):
        raise ValueError(f"{value!r} is a name: give both student and teacher as names, or both as modules")
    return list(value)


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _verdict(measured: Measurement, concluded: Conclusion) -> tuple[Verdict, str]:
    """Return the verdict and, if it is inconclusive, the reason and what to add."""
    verdict = verdict_of(concluded.findings, steps=measured.effective)
    if verdict is Verdict.CONFORMS and measured.updates and not concluded.measured.momentum:
        return Verdict.INCONCLUSIVE, (
            "the teacher changed, but no momentum could be measured: watch more steps (--steps), or steps with a "
            "larger learning rate"
        )
    if verdict is Verdict.INCONCLUSIVE:
        return verdict, (
            f"only {measured.effective} of {count(measured.steps, 'optimizer step')} changed the student: watch "
            "more steps (--steps), train longer, or use a learning rate above 0"
        )
    return verdict, ""


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "torch": torch.__version__}
    with contextlib.suppress(PackageNotFoundError):
        found["hjepa"] = version("hjepa")
    return found
