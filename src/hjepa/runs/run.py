"""A run on disk, as returned by the Python API."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hjepa.runs.folder import RunFolder
from hjepa.training.health import Verdict


@dataclass(frozen=True)
class Run:
    """A run on disk: its record, metrics, verdict and report."""

    path: Path

    @property
    def record(self) -> dict[str, Any]:
        """Return run.json: status, versions, hardware, data, speed, verdict."""
        return RunFolder(self.path).read_record()

    @property
    def verdict(self) -> Verdict | None:
        """Return the last verdict, or None before the first logged line."""
        verdict = self.record["verdict"]
        return Verdict(**verdict) if verdict else None

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl."""
        return RunFolder(self.path).read_metrics()

    @property
    def report(self) -> Path:
        """Return the path of the report page."""
        return self.path / "report.html"

    def summary(self) -> dict[str, Any]:
        """Return the stable last line of ``hjepa pretrain --json``."""
        record = self.record
        return {
            "verdict": record["verdict"]["verdict"] if record["verdict"] else None,
            "steps": record["steps"],
            "images_per_second": record["images_per_second"],
            "run": str(self.path),
        }
