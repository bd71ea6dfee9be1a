"""A pytest plugin with the fixture ``assert_conforms``; torch is imported when a test uses it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hjepa.audit.session import TeacherAudit


@pytest.fixture(name="assert_conforms")
def conforming() -> Iterator[Callable[..., contextlib.AbstractContextManager["TeacherAudit"]]]:
    """``with assert_conforms(student=encoder, teacher=target, spec="ijepa", steps=10): train()``.

    Takes what ``hjepa.audit.assert_conforms`` takes. At the end of the block the test fails with the list of
    broken rules, also when too little was seen; and it fails when the block is forgotten.
    """
    from hjepa.audit import assert_conforms

    waiting: list[TeacherAudit] = []

    def start(*arguments: Any, **how: Any) -> contextlib.AbstractContextManager["TeacherAudit"]:
        waiting.append(assert_conforms(*arguments, **how))
        return _entering(waiting[-1], waiting)

    yield start
    if waiting:
        pytest.fail("assert_conforms(...) watches only inside a block: with assert_conforms(...): train()", False)


@contextlib.contextmanager
def _entering(audit: "TeacherAudit", waiting: list["TeacherAudit"]) -> Iterator["TeacherAudit"]:
    __tracebackhide__ = True
    waiting.remove(audit)
    with audit:
        yield audit
