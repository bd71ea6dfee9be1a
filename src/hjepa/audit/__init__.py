"""The auditor: checks whether a training loop updates its teacher as its specification prescribes.

It depends only on torch and the standard library.  See ``TeacherAudit``, and ``hjepa audit --help``.

From bottom to top: ``observe`` records events and samples of the weights, ``measure`` derives updates and momenta
from them, ``judge`` compares these with a specification (``specs``), ``tell`` writes the report.  The modules next to
these packages are the entry points: ``TeacherAudit``, callbacks, the command, the pytest plugin.
"""

from typing import Any

__all__ = ["Report", "TeacherAudit", "assert_conforms", "specs"]

_HOME = {"TeacherAudit": "teacher_audit", "assert_conforms": "teacher_audit", "Report": "tell.report"}


def __getattr__(name: str) -> Any:
    import importlib  # what is named is imported when it is asked for: torch takes a second

    if name == "specs":
        return importlib.import_module("hjepa.audit.specs")
    if name in _HOME:
        return getattr(importlib.import_module(f"hjepa.audit.{_HOME[name]}"), name)
    raise AttributeError(f"module 'hjepa.audit' has no attribute {name!r}")
