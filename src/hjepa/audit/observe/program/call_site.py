"""Where in the user's code something happens."""

import inspect
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch

_TORCH = str(Path(torch.__file__).parent) + os.sep
OURS = str(Path(__file__).parents[2]) + os.sep  # the auditor: its frames are nobody's code
_LIBRARY = (f"site-packages{os.sep}", f"dist-packages{os.sep}", str(Path(os.__file__).parent) + os.sep)


def caller() -> str | None:
    """Return ``file.py:line`` of the innermost frame in the user's own code.

    When that code called into an installed library which did it, the library's place is added.
    """
    inner: FrameType | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_TORCH, OURS, "<")):
            inner = inner or frame
            if not any(part in name for part in _LIBRARY):
                return _show(frame) if frame is inner else f"{_show(frame)} (in {_show(inner)})"
        frame = frame.f_back
    return _show(inner) if inner is not None else None


def local_variables(frame: FrameType) -> dict[str, Any]:
    """Return the variables of a frame, so that the frame keeps none of them alive afterwards."""
    seen = frame.f_locals
    found = dict(seen)
    if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        seen.clear()  # a copy that Python keeps with the frame of a function, until somebody asks again
    return found


def function() -> tuple[str, int] | None:
    """Return file and first line of the innermost function of the user's own code."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_TORCH, OURS, "<")) and not any(part in name for part in _LIBRARY):
            return name, frame.f_code.co_firstlineno
        frame = frame.f_back
    return None


def stack() -> tuple[tuple[str, int, int], ...]:
    """Return (file, first line of the function, current line) of every frame, outermost first."""
    found = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_code.co_firstlineno, frame.f_lineno))
        frame = frame.f_back
    return tuple(reversed(found))


def stands_after(first: tuple[tuple[str, int, int], ...], second: tuple[tuple[str, int, int], ...]) -> bool | None:
    """Return whether ``first`` stands after ``second`` in the text of the function they have in common."""
    for one, other in zip(first, second, strict=False):
        if one[:2] != other[:2]:
            return None
        if one[2] != other[2]:
            return one[2] > other[2]
    return None


def _show(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    for part in _LIBRARY:
        head, found, tail = str(path).partition(part)
        if found and head:
            return f"{tail}:{frame.f_lineno}"
    try:
        shown = path.relative_to(Path.cwd())
    except (ValueError, OSError):
        shown = path
    return f"{shown if len(str(shown)) < len(str(path)) else path}:{frame.f_lineno}"
