"""Every run audits its own first steps, as ``hjepa audit`` does for any training loop, and saves the report."""

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
    """The specification given by the run's own configuration; the momentum is the schedule itself."""

    schedule: Callable[[int], float] | None = None

    def momentum(self, update: int) -> float | None:
        """Return the configured momentum of update number ``update``."""
        return None if self.schedule is None else self.schedule(update)


def run_spec(
    ema: EMAConfig, schedule: Callable[[int], float], total_steps: int, *, from_weights: bool = False
) -> RunSpec:
    """Return the specification of a run: I-JEPA's order, frozen equal teacher, normalised targets, its schedule.

    A run that starts ``from_weights`` may have loaded a teacher that differs from its student.
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
def audit_first_steps(session: Session, *, from_weights: bool = False) -> Iterator[None]:
    """Audit the first optimizer steps inside the block; then write audit.md and audit.json at once."""
    trainer = session.trainer
    schedule = trainer.model.target_encoder.momentum
    first = trainer.step + 1

    def done() -> None:
        trainer.capturing = True  # a replayed step calls none of the audit's hooks, so it begins after them
        if session.main:
            write_audit(session, audit.report(), first)

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


def write_audit(session: Session, report: Report, first: int) -> None:
    """Write the report on the steps from ``first`` on into the run folder and announce its verdict in one line.

    A run that is resumed shortly before its end keeps the report on more of its earlier steps, unless the new one has
    findings.
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
