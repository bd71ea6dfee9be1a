"""The callback interface of training: the terminal displays progress, a test collects it."""

from collections.abc import Mapping
from typing import Any

from hjepa.config import Resolved
from hjepa.training.health import Verdict


class TrainingCallback:
    """Hooks called during training; all of them do nothing by default."""

    def on_start(self, resolved: Resolved, record: Mapping[str, Any], first_step: int) -> None:
        """Called after all checks, when training begins."""

    def on_line(self, line: dict[str, Any], total_steps: int) -> None:
        """Called when a line has been added to metrics.jsonl."""

    def on_verdict(self, step: int, verdict: Verdict) -> None:
        """Called when the verdict has changed."""

    def on_notice(self, text: str) -> None:
        """Called with a message for the user."""
