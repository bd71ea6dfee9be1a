"""The report of an audit, in every format."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hjepa.audit.judge.findings import Result
from hjepa.audit.tell.junit import junit_of
from hjepa.audit.tell.markdown import markdown_of
from hjepa.audit.tell.page import page_of
from hjepa.audit.tell.phrases import observed, one_line
from hjepa.audit.tell.summary import summary_of

_FORMAT = 1  # version of the JSON keys


class ConformanceError(AssertionError):
    """The training loop does not follow its specification, or too little was observed to decide."""


@dataclass(frozen=True)
class Report(Result):
    """What an audit found in one training run, available as text, JSON, Markdown, HTML and JUnit XML."""

    def to_json(self) -> dict[str, Any]:
        """Return everything under stable keys, as JSON values; nan and inf become strings."""
        content = _plain(
            {
                "format": _FORMAT,
                "verdict": self.verdict.value,
                "exit_code": self.exit_code,
                "reason": self.reason,
                "interrupted": self.interrupted,
                "date": self.date,
                "versions": self.versions,
                "spec": self.spec,
                "spec_source": self.spec_source,
                "nearest": self.nearest,
                "steps": self.steps,
                "subject": self.subject.to_json(),
                "measured": self.measured.to_json(),
                "findings": [finding.to_json() for finding in self.findings],
                "timeline": [{"step": e.step, "what": e.what, "location": e.location} for e in self.timeline],
            }
        )
        assert isinstance(content, dict)
        return content

    def json_text(self) -> str:
        """Return `to_json` as text."""
        return json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """Return the report as Markdown."""
        return markdown_of(self)

    def to_html(self) -> str:
        """Return the report as one self-contained HTML page."""
        return page_of(self)

    def to_junit(self) -> str:
        """Return JUnit XML with one test case per rule."""
        return junit_of(self)

    def summary(self) -> str:
        """Return at most 25 lines of plain text for a terminal."""
        return summary_of(self)

    def raise_for_failures(self) -> None:
        """Raise `ConformanceError` if a rule failed, or if the audit is inconclusive."""
        if not self.failures and self.verdict.exit_code == 0:
            return
        about = f": {one_line(self.reason)}" if self.reason else ""
        lines = [
            f"the audit with specification {one_line(self.spec)!r} ended with verdict {self.verdict.value!r}{about}"
        ]
        for finding in self.failures:
            where = f" at {finding.location}" if finding.location else ""
            remedy = f" Fix: {finding.remedy}" if finding.remedy else ""
            lines.append(one_line(f"- {finding.rule} ({finding.severity.value}){where}: {observed(finding)}{remedy}"))
        raise ConformanceError("\n".join(lines))


def _plain(value: Any) -> Any:
    """Return the value as JSON types; anything else becomes a string."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=str)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # a tensor or an array
        return _plain(value.tolist())
    return str(value)
