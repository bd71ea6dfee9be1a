"""The report of a run: one self-contained ``report.html``, built from the files in the run folder."""

from hjepa.report.page import write_report

__all__ = ["write_report"]
