"""A training session: the loop around the step, logging and checkpoints."""

import time
from dataclasses import dataclass, field
from typing import Any

from accelerate.utils import broadcast_object_list

from hjepa.config import by_name, derive
from hjepa.data.bad_images import BadImage
from hjepa.data.sources.paged import PagedSource
from hjepa.errors import UserError
from hjepa.files import flush_to_disk, write_atomically, write_json
from hjepa.models.frozen import encoder_bytes, encoder_card
from hjepa.models.timm_config import timm_config
from hjepa.runs import checkpoint as checkpoints
from hjepa.runs.bad_images import BadImageRecord, still_bad
from hjepa.runs.budget import NOTICE_THRESHOLD, Budget, budget_in_force
from hjepa.runs.callback import TrainingCallback
from hjepa.runs.content_tracker import ContentTracker
from hjepa.runs.folder import RunFolder
from hjepa.runs.metrics import Throughput, mean_loss, metrics_line
from hjepa.runs.record import now, write_config
from hjepa.runs.stopping import Stopped, StopSignals
from hjepa.runs.waiting import WaitingForImages
from hjepa.setup.build import Parts, horizon_of, set_schedules
from hjepa.setup.machine import return_freed_memory
from hjepa.training.health import Health, Verdict, grace_steps
from hjepa.training.remedies import Remedies
from hjepa.training.trainer import StepResult, train_loop
from hjepa.version import __version__

MAX_SKIPPED_IN_A_ROW = 20


@dataclass
class Session:
    """A run in training: its parts, its health measures, and the folder it writes to."""

    parts: Parts
    folder: RunFolder
    record: dict[str, Any]
    callback: TrainingCallback
    started: float = field(default_factory=time.perf_counter)  # when the time of a budget started

    def __post_init__(self) -> None:
        self.resolved, self.source = self.parts.resolved, self.parts.source
        self.trainer, self.batches = self.parts.trainer, self.parts.batches
        self.config = self.resolved.config
        self.total_steps = horizon_of(self.config).total_steps
        seconds = budget_in_force(self.resolved)
        self.budget = None if seconds is None else Budget(seconds, self.started)
        self.steps_announced = self.total_steps
        self.health = Health(grace_steps(self.total_steps), Remedies(by_name(self.config), self.total_steps))
        self.verdict: Verdict | None = None
        self.best_rank = 0.0
        self.content = ContentTracker(self.trainer)
        self.signals = StopSignals(self.trainer.accelerator)
        self.first_step = self.trainer.step
        self.throughput = Throughput()
        self.waiting = WaitingForImages(self.config, self.batches.images)
        self.bad_images = BadImageRecord(self.record, self.source, self.batches.images.bad)
        self.main = self.trainer.accelerator.is_main_process

    # ---- the loop -------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end; raises Stopped after a signal, UserError on divergence or a damaged image.

        A checkpoint is saved in each case.
        """
        trainer, status = self.trainer, "failed"
        self._write_record("running")
        try:
            with self.signals.remembered():
                self._train_loop()
            self.save()
            if trainer.step == self.total_steps:
                status = "finished"
            elif self.signals.agreed is not None:
                status = "stopped"
                raise Stopped(self.signals.agreed, trainer.step)
            else:
                raise UserError(
                    f"training diverged: {trainer.skipped_in_a_row} consecutive steps had non-finite gradients "
                    f"(checkpoint at step {trainer.step}); restart with --optim.lr below {self.config.optim.lr:g}"
                )
        finally:
            self._name_bad_images()
            self._write_record(status)
            for text in self.bad_images.summary() if self.main else ():
                self.callback.on_notice(text)

    def _name_bad_images(self) -> None:
        """Say which images could not be read, once each, and list them in run.json."""
        if self.main and (notices := self.bad_images.update()):
            self._write_record("running")
            for text in notices:
                self.callback.on_notice(text)

    def _train_loop(self) -> None:
        trainer = self.trainer
        attempts = trainer.step + trainer.skipped_steps
        try:
            train_loop(
                trainer, self.batches(attempts), total_steps=lambda: self.total_steps, after_step=self._after_step
            )
        except UserError:  # a damaged image, met between two steps: the state is valid and can be saved
            if trainer.step > self.first_step:
                self.save()
            raise

    def _after_step(self, result: StepResult, waited: float) -> bool:
        """Log and save if due; return whether to stop.

        Numbers are read from the device only where something may be due: until then no more steps have been taken than
        attempts made, so nothing is missed (decision 0026).
        """
        self.throughput.add(self.config.optim.batch_size, waited)
        self._name_bad_images()
        may_be, config = self.trainer.step_at_most, self.config.train
        missing = min((-may_be) % config.log_every, max(0, self.total_steps - may_be))
        if missing * result.batch.images.shape[0] < self.health.queue.length:
            self.health.queue.add(result.forward.pooled)
        gave_up = False
        if missing == 0 or self._is_due(may_be) or self.trainer.skipped_in_a_row_at_most >= MAX_SKIPPED_IN_A_ROW:
            gave_up = self._after_read_step(result)
        return self.signals.agree() or gave_up

    def _is_due(self, step: int) -> bool:
        """Return whether something besides a line of metrics.jsonl is due after a step."""
        budget = self.budget is not None and self.budget.is_due(step, self.total_steps)
        return budget or step % self.config.train.checkpoint_every == 0

    def _after_read_step(self, result: StepResult) -> bool:
        """Do what is due after a step that is known to have been taken or skipped; return whether to give up."""
        config, gave_up = self.config.train, self.trainer.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW
        if result.stepped:
            self._keep_budget(result.step)
        at_end = result.step == self.total_steps
        if (result.stepped and result.step % config.log_every == 0) or at_end or gave_up:
            self._log(result)
        if result.stepped and result.step % config.checkpoint_every == 0:
            self.save()
        return gave_up

    def _keep_budget(self, step: int) -> None:
        """Correct the number of steps if the run would miss its budget."""
        if self.budget is None or not self.budget.is_due(step, self.total_steps):
            return
        box = [self.budget.fitting_steps(step, self.total_steps)]
        broadcast_object_list(box)  # the first process's clock counts
        if box[0] != self.total_steps:
            self._correct_length(step, box[0])

    def _correct_length(self, step: int, total_steps: int) -> None:
        """Change the number of steps; the rest of every schedule is spread over the remaining steps."""
        budget, before = self.config.train.length, self.total_steps
        horizon = horizon_of(self.config).corrected(step, total_steps)
        why = f"{budget} by the pace at step {step}"
        changes = {"horizon.steps": (total_steps, why), "horizon.corrections": (horizon.corrections, why)}
        self.resolved = derive(self.resolved, changes)
        self.config, self.total_steps = self.resolved.config, total_steps
        set_schedules(self.trainer, self.config)
        self.health.grace = grace_steps(total_steps)
        self.health.remedies = Remedies(by_name(self.config), total_steps)
        self.record.setdefault("corrections", []).append({"step": step, "steps_before": before, "steps": total_steps})
        if self.main:
            write_config(self.folder, self.resolved)
            if abs(total_steps - self.steps_announced) >= NOTICE_THRESHOLD * self.steps_announced:
                said, self.steps_announced = self.steps_announced, total_steps
                self.callback.on_notice(
                    f"budget {budget}: {total_steps:,} steps instead of {said:,} at the current pace"
                )

    def _log(self, result: StepResult) -> None:
        """Write a line to metrics.jsonl and judge the run by it."""
        loss = mean_loss(self.trainer, result.loss)
        self.batches.images.images.look_for_cache()
        if not self.main:
            return
        self.content.update(result.step, self.total_steps)
        line = metrics_line(
            result,
            loss,
            trainer=self.trainer,
            config=self.config,
            epoch_images=len(self.source),
            queue=self.health.queue,
            content=self.content.line,
            throughput=self.throughput,
            bad_images=len(self.batches.images.bad),
        )
        verdict = self.health.add(line)
        line["verdict"] = verdict.verdict
        self.folder.append_metrics(line)
        self.throughput.reset()
        self.callback.on_line(line, self.total_steps)
        for text in self.waiting.notices(line, self.total_steps):
            self.callback.on_notice(text)
        if self.verdict is None or verdict.verdict != self.verdict.verdict:
            history = self.record.setdefault("verdict_history", [])
            history.append({"step": result.step, **verdict.to_json()})
            self.callback.on_verdict(result.step, verdict)
        self.verdict = verdict

    def begin_content(self) -> None:
        """Read the images on which the content of features is measured, on rank 0; before training, measure it."""
        if self.main:
            with self.signals.remembered():
                self.content.begin(self.source, self.batches, self.config)

    # ---- what is saved --------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint and the encoder on rank 0, while the other ranks wait."""
        if self.main:
            if self.folder.metrics.is_file():
                flush_to_disk(self.folder.metrics)
            rank = self.health.queue.rank()
            best = rank > self.best_rank  # labels would be better; the loss would be worse
            self.best_rank = rank if best else self.best_rank
            checkpoints.save(
                self.folder.checkpoints,
                self._checkpoint(),
                keep=self.config.train.keep_checkpoints,
                best=best,
            )
            self.folder.discard_replaced()
            self._write_encoder()
            self._write_record("running")
            return_freed_memory()
        self.trainer.accelerator.wait_for_everyone()
        self.throughput.restart_clock()

    def _checkpoint(self) -> checkpoints.Checkpoint:
        trainer = self.trainer
        return checkpoints.Checkpoint(
            weights=trainer.model.state_dict(),
            training={
                "optimizer": trainer.optimizer.state_dict(),
                "scaler": trainer.scaler.state_dict(),
                "features": None if self.health.queue.features is None else self.health.queue.features.cpu(),
                "content": self.content.tensors(),
            },
            state={
                "step": trainer.step,
                "skipped_steps": trainer.skipped_steps,
                "skipped_in_a_row": trainer.skipped_in_a_row,
                "best_rank": self.best_rank,
                "bad_images": [list(image) for image in self.batches.images.bad],
                "content": self.content.state(),
                "config": self.config.model_dump(mode="json"),
                "health": list(self.health.history),
                "verdict": self.verdict.to_json() if self.verdict else None,
                "verdict_history": self.record.get("verdict_history", []),
                "seconds": self._seconds(),
            },
        )

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Restore the state of a checkpoint with this configuration."""
        state, trainer = checkpoint.state, self.trainer
        trainer.model.load_state_dict(checkpoint.weights)
        trainer.optimizer.load_state_dict(checkpoint.training["optimizer"])
        trainer.scaler.load_state_dict(checkpoint.training["scaler"])
        trainer.restore(state["step"], state["skipped_steps"], state["skipped_in_a_row"])
        self.first_step = trainer.step
        self.health.queue.features = checkpoint.training["features"]
        if "content" in state:  # missing in checkpoints of versions that measured it on other images
            self.content.restore(state["content"], checkpoint.training["content"])
        bad = [BadImage(*image) for image in state.get("bad_images", [])]
        self.batches.images.bad.add(still_bad(self.source, bad))
        self.health.history.extend(state["health"])
        self.verdict = Verdict(**state["verdict"]) if state["verdict"] else None
        self.best_rank = state["best_rank"]
        self.record["verdict_history"] = state["verdict_history"]
        self.record["seconds_before"] = state["seconds"]
        if self.budget is not None:
            self.budget.spent_before = float(state["seconds"])

    def _write_encoder(self) -> None:
        encoder = self.trainer.model.target_encoder.encoder
        data = self.config.data
        preprocess: dict[str, Any] = {
            "image_size": list(self.config.image_size),
            "fit": data.fit,
            "mean": data.mean,
            "std": data.std,
        }
        preprocess |= {"value_range": data.value_range} if data.value_range else {}
        preprocess |= {"pages": "all"} if data.pages == "all" or isinstance(self.source, PagedSource) else {}
        card = encoder_card(
            encoder,
            preprocess,
            {
                "network": "target encoder",
                "step": self.trainer.step,
                "data": self.record["data"],
                "recipe": self.config.recipe,
                "seed": self.config.train.seed,
                "hjepa": __version__,
            },
            self.trainer.model.levels,
            self.config.loss.pixel_targets,
            self.config.model.initialisation,
        )
        write_atomically(self.folder.encoder, lambda path: path.write_bytes(encoder_bytes(encoder)))
        write_json(self.folder.encoder_card, card)
        write_json(self.folder.timm_config, timm_config(encoder, preprocess))

    def note(self, **entries: Any) -> None:
        """Add entries to run.json."""
        self.record |= entries
        self.folder.write_record(self.record)

    def _write_record(self, status: str) -> None:
        if not self.main:
            return
        trainer, seconds = self.trainer, self._seconds()
        images = trainer.step * self.config.optim.batch_size
        self.record |= {
            "status": status,
            "finished": None if status == "running" else now(),
            "steps": trainer.step,
            "total_steps": self.total_steps,
            "images": images,
            "skipped_steps": trainer.skipped_steps,
            "seconds": round(seconds, 1),
            "images_per_second": self._speed(),
            "verdict": self.verdict.to_json() if self.verdict else None,
        }
        self.folder.write_record(self.record)

    def _seconds(self) -> float:
        """Return the training time so far, including earlier parts of a resumed run."""
        return float(self.record.get("seconds_before", 0.0)) + time.perf_counter() - self.started

    def _speed(self) -> float | None:
        """Return the median throughput of the logged lines, in images per second."""
        speeds = sorted(line["images_per_second"] for line in self.health.history)
        return speeds[len(speeds) // 2] if speeds else None
