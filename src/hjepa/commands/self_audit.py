"""Every run audits its own first steps, as ``hjepa audit`` would audit anybody's, and keeps the report."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hjepa.audit.specs import Spec
from hjepa.audit.teacher_audit import TeacherAudit
from hjepa.audit.tell.report import Report
from hjepa.config import EMAConfig
from hjepa.files import write_json, write_text
from hjepa.runs.session import Session

STEPS = 20


@dataclass(frozen=True)
class RunSpec(Spec):
    """What this run's own configuration prescribes; the momentum is the schedule itself."""

    schedule: Callable[[int], float] | None = None

    def momentum(self, update: int) -> float | None:
        """Return the configured momentum of update number ``update``."""
        return None if self.schedule is None else self.schedule(update)


def run_spec(
    ema: EMAConfig, schedule: Callable[[int], float], total_steps: int, *, from_weights: bool = False
) -> RunSpec:
    """Return the specification of a run: I-JEPA's order, frozen equal teacher, normalised targets, its schedule.

    A run that starts ``from_weights`` may have been given a teacher of its own, which lags behind its student.
    """
    return RunSpec(
        name="this run's configuration",
        kind=ema.kind,
        start=ema.momentum,
        end=ema.momentum if ema.kind == "constant" else ema.final_momentum,
        total_steps=total_steps,
        orders=frozenset({"A"}),
        on_skipped_step="forbidden",
        initial="any" if from_weights else "equal",
        target_normalisation="layer-norm",
        source="config.yaml of the run",
        schedule=schedule,
    )


@contextlib.contextmanager
def audited(session: Session, *, from_weights: bool = False) -> Iterator[None]:
    """Watch the first optimizer steps inside; write audit.md and audit.json as soon as they are over."""
    trainer = session.trainer
    schedule = trainer.model.target_encoder.momentum
    first = trainer.step + 1

    def done() -> None:
        if session.main:
            keep(session, audit.report(), first)

    audit = TeacherAudit(
        trainer.model.context_encoder,
        trainer.model.target_encoder.encoder,
        trainer.optimizer,
        run_spec(session.config.ema, schedule, session.total_steps, from_weights=from_weights),
        steps=STEPS,
        trace=trainer.accelerator.num_processes == 1,
        start_step=trainer.step,
        on_done=done,
    )
    with audit:
        yield


def keep(session: Session, report: Report, first: int) -> None:
    """Write the report on the steps from ``first`` on into the run and say what it says in one line.

    A run that is resumed shortly before its end keeps the better founded report on its earlier steps, unless
    the new one has found something.
    """
    before = session.record.get("audit") or {"steps": 0}
    if not report.steps or (report.steps < before["steps"] and not report.failures):
        return
    write_text(session.folder.audit_markdown, report.to_markdown())
    write_json(session.folder.audit, report.to_json())
    session.note(audit={"verdict": report.verdict.value, "first_step": first, "steps": report.steps})
    failed = ", ".join(finding.rule for finding in report.failures)
    session.callback.on_notice(
        f"audit of steps {first} to {first + report.steps - 1}: {report.verdict.value}"
        + f" ({failed}, see audit.md)" * bool(failed)
    )
