"""What training tells whoever wants to know: the terminal draws it, a test collects it."""

from collections.abc import Mapping
from typing import Any

from hjepa.config import Resolved
from hjepa.training.health import Verdict


class TrainingCallback:
    """Hooks called during training; each does nothing unless it is overridden."""

    def on_start(self, resolved: Resolved, record: Mapping[str, Any], first_step: int) -> None:
        """Everything is checked and training begins."""

    def on_line(self, line: dict[str, Any], total_steps: int) -> None:
        """A line was added to metrics.jsonl."""

    def on_verdict(self, step: int, verdict: Verdict) -> None:
        """The verdict changed."""

    def on_notice(self, text: str) -> None:
        """Something a person should know."""
