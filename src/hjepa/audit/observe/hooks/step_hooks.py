"""Hooks of optimizers, which must not come and go while torch goes through them: it would end in an error."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from torch.utils.hooks import RemovableHandle

_at_work: ContextVar[int] = ContextVar("_at_work", default=0)


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """Say that torch is going through its hooks, because one of ours runs."""
    token = _at_work.set(_at_work.get() + 1)
    try:
        yield
    finally:
        _at_work.reset(token)


def remove_if_safe(hook: RemovableHandle) -> None:
    """Remove a hook, unless torch is at it and others stand behind it.

    What stays does nothing any more, and goes when its audit is stopped.
    """
    hooks = hook.hooks_dict_ref()
    if hooks and (not _at_work.get() or next(reversed(hooks)) == hook.id):
        hook.remove()
