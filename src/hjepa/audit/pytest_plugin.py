"""A pytest plugin with the fixture ``assert_conforms``; torch is imported only when a test uses it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hjepa.audit.teacher_audit import TeacherAudit


@pytest.fixture(name="assert_conforms")
def conforming() -> Iterator[Callable[..., AbstractContextManager["TeacherAudit"]]]:
    """``with assert_conforms(student=encoder, teacher=target, spec="ijepa", steps=10): train()``.

    Takes the arguments of ``hjepa.audit.assert_conforms``. At the end of the block the test fails with the list of
    failed rules, or because too little was observed. It also fails if the ``with`` is missing.
    """
    from hjepa.audit import assert_conforms

    waiting: list[TeacherAudit] = []

    def start(*arguments: Any, **how: Any) -> AbstractContextManager["TeacherAudit"]:
        waiting.append(assert_conforms(*arguments, **how))
        return _Block(waiting[-1], waiting)

    yield start
    if waiting:
        pytest.fail("assert_conforms(...) works only in a with statement: with assert_conforms(...): train()", False)


class _Block:
    """The audit as a block that was entered, and whose failure shows the test's own line only."""

    def __init__(self, audit: "TeacherAudit", waiting: list["TeacherAudit"]) -> None:
        self._audit, self._waiting = audit, waiting

    def __enter__(self) -> "TeacherAudit":
        self._waiting.remove(self._audit)
        return self._audit.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from hjepa.audit.tell.report import ConformanceError

        __tracebackhide__ = True
        try:
            self._audit.__exit__(kind, error, trace)
        except ConformanceError as failures:
            raise failures.with_traceback(None) from None
