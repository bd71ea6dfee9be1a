"""Our own operations beside the dispatch and function modes of the program that is audited.

A mode of the program (a FLOP counter, a logger, ``torch.device`` as a context) must not see what we compute, and a
mode of ours must leave the stack wherever it lies, as the program's come and go meanwhile.
"""

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch._C._dynamo.eval_frame import set_eval_frame
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode_stack,
    _pop_mode,
    _push_mode,
)


class _SuspendedStacks(threading.local):
    """Modes that are off the stack while we compute; each thread has its own stack."""

    def __init__(self) -> None:
        self.stacks: list[list[TorchDispatchMode]] = []


_suspended = _SuspendedStacks()


@contextlib.contextmanager
def suspended_modes() -> Iterator[None]:
    """Compute without gradient, compiler and any mode, then put the modes back."""
    modes = _get_current_dispatch_mode_stack()
    _stack([])
    _suspended.stacks.append(modes)
    compiler = set_eval_frame(None)  # of a program that is compiled: it would compile our functions as well
    try:
        with _without_transforms(), torch._C.DisableTorchFunction(), torch.no_grad():
            yield
    finally:
        set_eval_frame(compiler)
        _suspended.stacks.pop()
        if modes:
            _stack([*_get_current_dispatch_mode_stack(), *modes])


def _without_transforms() -> contextlib.AbstractContextManager[object]:
    """Leave torch.vmap and torch.func for a while, if the program is inside them: our tensors are plain ones."""
    if torch._C._functorch.peek_interpreter_stack() is None:
        return contextlib.nullcontext()
    return temporarily_clear_interpreter_stack()


def push_to_bottom(mode: TorchDispatchMode) -> None:
    """Let ``mode`` see what the program's own modes, and those to come, pass on.

    Not by ``__enter__``: that sets flags of torch.compile, which the program's modes would save and restore.
    """
    _stack([mode, *_get_current_dispatch_mode_stack()])


def remove_mode(mode: TorchDispatchMode) -> None:
    """Take ``mode`` off the stack, wherever it lies."""
    for modes in _suspended.stacks:
        if any(other is mode for other in modes):
            modes[:] = [other for other in modes if other is not mode]
    stack = _get_current_dispatch_mode_stack()
    if any(other is mode for other in stack):
        _stack([other for other in stack if other is not mode])


def _stack(modes: list[TorchDispatchMode]) -> None:
    """Make ``modes`` the stack of this thread, the last on top."""
    for _ in _get_current_dispatch_mode_stack():
        _pop_mode()
    for mode in modes:
        _push_mode(mode)
